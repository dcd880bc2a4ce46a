//! What a service answers, as bytes that must not panic.

use crate::metadata::{Metadata, Version};
use crate::{batch, literal, page, refusal, shape, values};
use millrace_schemas::contract::Kind;
use std::sync::OnceLock;

const SERVICE: &str = r#"<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx"><edmx:DataServices>
<Schema Namespace="p" xmlns="http://docs.oasis-open.org/odata/ns/edm"><EntityType Name="O"><Key><PropertyRef Name="id"/><PropertyRef Name="n"/></Key>
<Property Name="id" Type="Edm.String"/><Property Name="n" Type="Edm.Int64"/><Property Name="d" Type="Edm.Decimal" Precision="9" Scale="3"/>
<Property Name="f" Type="Edm.Double"/><Property Name="b" Type="Edm.Binary"/><Property Name="at" Type="Edm.DateTimeOffset"/>
<Property Name="day" Type="Edm.Date"/><Property Name="t" Type="Edm.TimeOfDay"/><Property Name="g" Type="Edm.Guid"/><Property Name="l" Type="Collection(p.C)"/>
</EntityType><ComplexType Name="C"><Property Name="x" Type="Edm.Int32"/></ComplexType>
<EntityContainer Name="c"><EntitySet Name="Os" EntityType="p.O"/></EntityContainer></Schema></edmx:DataServices></edmx:Edmx>"#;

/// `$metadata`, and the schemas made of it.
pub fn fuzz_erp_metadata(bytes: &[u8]) {
    let Ok(metadata) = Metadata::parse(&String::from_utf8_lossy(bytes)) else { return };
    for (_, type_name) in metadata.sets.iter().take(8) {
        let Ok(record) = shape::of(&metadata, type_name, &[], &[]) else { continue };
        for kind in [Kind::Avro, Kind::Json] {
            let _ = record.schema(kind, "fuzz");
        }
    }
}

/// A page with its entities, an error, a `$batch`; the first byte says of which version.
pub fn fuzz_erp_page(bytes: &[u8]) {
    static RECORD: OnceLock<crate::shape::Record> = OnceLock::new();
    let record = RECORD.get_or_init(|| {
        let metadata = Metadata::parse(SERVICE).expect("is metadata");
        shape::of(&metadata, "p.O", &[], &[]).expect("has the type")
    });
    let Some((first, rest)) = bytes.split_first() else { return };
    let version = if first % 2 == 0 { Version::V4 } else { Version::V2 };
    let mut out = Vec::new();
    let text = String::from_utf8_lossy(rest);
    if let Ok(page) = page::parse(&text, version) {
        for row in page.rows(&text) {
            out.clear();
            if let Ok(entity) = values::entity(row, record, version, &[0, 1], &mut out) {
                assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok(), "an entity becomes a document: {row}");
                let _ = literal::key_of_id(&entity.id(), record);
            }
        }
    }
    let _ = refusal::of(rest);
    let _ = literal::key_of_id(&text, record);
    let _ = batch::read("multipart/mixed; boundary=b", rest);
}
