//! SenML (RFC 8428) in JSON: base values of earlier records resolved, so that each record says all it means.
//!
//! ```text
//! [{"bn":"urn:x:","bt":1763726880,"n":"temp","v":22.5},{"n":"door","t":-5,"vb":true}]
//! [{"name":"urn:x:temp","time":1763726880.000000,"value":22.5},{"name":"urn:x:door","time":1763726875.000000,"value":true}]
//! ```
//!
//! A time below 2^28 is relative to now (section 4.5.3). A number keeps its digits unless a base value is added to it.

use millrace_config::Reason;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fmt::Write;

#[derive(Deserialize)]
struct Record<'a> {
    bn: Option<String>,
    bt: Option<f64>,
    bv: Option<f64>,
    n: Option<String>,
    t: Option<f64>,
    #[serde(borrow)]
    v: Option<&'a RawValue>,
    #[serde(borrow)]
    vs: Option<&'a RawValue>,
    #[serde(borrow)]
    vb: Option<&'a RawValue>,
    #[serde(borrow)]
    vd: Option<&'a RawValue>,
    #[serde(borrow)]
    s: Option<&'a RawValue>,
}

const RELATIVE: f64 = 268_435_456.0;

/// Resolves a pack. `now`: seconds since 1970. Errors: one line for a person.
pub fn senml(payload: &[u8], now: f64) -> Result<Vec<u8>, Reason> {
    let records: Vec<Record<'_>> =
        serde_json::from_slice(payload).map_err(|error| format!("the payload cannot be read as SenML: {error}"))?;
    let (mut base_name, mut base_time, mut base_value) = (String::new(), None, None);
    let mut out = String::from("[");
    for record in records {
        base_name = record.bn.unwrap_or(base_name);
        base_time = record.bt.or(base_time);
        base_value = record.bv.or(base_value);
        let value = match (record.v, base_value) {
            (Some(raw), Some(base)) => {
                let own: f64 =
                    raw.get().parse().map_err(|_| format!("the payload cannot be read as SenML: `{}` is not a number", raw.get()))?;
                Some((own + base).to_string())
            }
            (Some(raw), None) => Some(raw.get().to_owned()),
            (None, _) => record.vs.or(record.vb).or(record.vd).map(|raw| raw.get().to_owned()),
        };
        if value.is_none() && record.s.is_none() {
            continue;
        }
        let name = format!("{base_name}{}", record.n.unwrap_or_default());
        let time = match (base_time, record.t) {
            (None, None) => None,
            (base, own) => Some(base.unwrap_or(0.0) + own.unwrap_or(0.0)).map(|time| if time < RELATIVE { now + time } else { time }),
        };
        // Writing to memory can't fail.
        let _ = write!(out, "{}{{\"name\":{}", if out.len() > 1 { "," } else { "" }, serde_json::Value::from(name));
        if let Some(time) = time {
            let _ = write!(out, ",\"time\":{time:.6}");
        }
        if let Some(value) = value {
            let _ = write!(out, ",\"value\":{value}");
        }
        if let Some(sum) = record.s {
            let _ = write!(out, ",\"sum\":{}", sum.get());
        }
        out.push('}');
    }
    out.push(']');
    Ok(out.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_values_hold_until_the_next_and_small_times_are_relative() {
        let pack = br#"[{"bn":"x:","bt":1763726880,"n":"a","v":22.50},{"n":"b","t":-5,"vb":true},{"bn":"y","bt":0,"t":-2,"vs":"z"},{"bv":1,"n":"c","v":2}]"#;
        let resolved = String::from_utf8(senml(pack, 1_763_726_900.0).unwrap()).unwrap();
        let expected = r#"[{"name":"x:a","time":1763726880.000000,"value":22.50},{"name":"x:b","time":1763726875.000000,"value":true},{"name":"y","time":1763726898.000000,"value":"z"},{"name":"yc","time":1763726900.000000,"value":3}]"#;
        assert_eq!(resolved, expected);
        assert!(senml(b"{}", 0.0).unwrap_err().starts_with("the payload cannot be read as SenML"));
    }
}
