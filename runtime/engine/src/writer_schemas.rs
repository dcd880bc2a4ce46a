//! With which schema was a record in Avro written? A sample of another version of the telemetry schema is read as today's has it; a document as it was
//! written.
//!
//! The registry is asked once for each id, and never for today's again; while it is away the sink waits, and nothing is guessed. Samples in JSON and
//! Protobuf need none of it: their fields have names and numbers.

use millrace_config::Reason;
use millrace_contract::Failure;
use millrace_registry::{Client, RegistryError, Resolved, SchemaId};
use millrace_schemas::contract::{Contract, Kind};
use millrace_schemas::{Batch, TELEMETRY_SCHEMA, avro};
use std::collections::HashMap;
use std::sync::Arc;

/// Schemas remembered.
const KEPT: usize = 1_000;

pub struct WriterSchemas {
    client: Arc<Client>,
    tokio: tokio::runtime::Handle,
    telemetry: Contract,
    by_id: HashMap<SchemaId, Writer>,
    /// A sample as today's schema has it.
    spare: Vec<u8>,
}

enum Writer {
    Today,
    Other(Box<Contract>),
    /// Why nothing of it can be read.
    Unreadable(String),
}

impl WriterSchemas {
    pub fn new(client: Arc<Client>, tokio: tokio::runtime::Handle) -> Self {
        let telemetry = Contract::compile(Kind::Avro, TELEMETRY_SCHEMA, None, &mut |_| None).expect("the telemetry schema is one");
        Self { client, tokio, telemetry, by_id: HashMap::new(), spare: Vec::new() }
    }

    /// Reads a sample that was written with the schema of this id. The inner error says why it is none.
    ///
    /// Errors: the registry can't be asked.
    pub fn decode(&mut self, id: SchemaId, value: &[u8], batch: &mut Batch) -> Result<Result<(), Reason>, Failure> {
        self.learn(id)?;
        let value = match &self.by_id[&id] {
            Writer::Today => value,
            Writer::Other(writer) => {
                self.spare.clear();
                if self.telemetry.resolve(writer, value, &mut self.spare).is_none() {
                    return Ok(Err(format!("it cannot be read from {} (id {id}) as a sample", writer.schema().name).into()));
                }
                &self.spare
            }
            Writer::Unreadable(why) => return Ok(Err(why.clone().into())),
        };
        Ok(avro::decode(value, batch).map_err(|error| error.to_string().into()))
    }

    /// Appends what was written with the schema of this id as JSON. The inner error says why it can't be read.
    ///
    /// Errors: the registry can't be asked.
    pub fn show(&mut self, id: SchemaId, value: &[u8], out: &mut Vec<u8>) -> Result<Result<(), Reason>, Failure> {
        self.learn(id)?;
        let contract = match &self.by_id[&id] {
            Writer::Today => &self.telemetry,
            Writer::Other(writer) => writer,
            Writer::Unreadable(why) => return Ok(Err(why.clone().into())),
        };
        let shown = contract.show(value).ok_or_else(|| format!("it is not what {} (id {id}) says", contract.schema().name));
        Ok(shown.map(|json| out.extend_from_slice(json.as_bytes())).map_err(Reason::from))
    }

    fn learn(&mut self, id: SchemaId) -> Result<(), Failure> {
        if !self.by_id.contains_key(&id) {
            let writer = self.ask(id)?;
            if self.by_id.len() >= KEPT {
                // Which go does not matter: each costs one request to come back.
                self.by_id.clear();
            }
            self.by_id.insert(id, writer);
        }
        Ok(())
    }

    fn ask(&self, id: SchemaId) -> Result<Writer, Failure> {
        match self.tokio.block_on(self.client.schema(id)) {
            Ok(resolved) => Ok(self.writer(id, &resolved)),
            Err(RegistryError::NotFound(_)) => Ok(Writer::Unreadable(format!("the schema registry does not know its schema, id {id}"))),
            Err(RegistryError::Away(why)) => {
                Err(Failure::Reconnect(format!("cannot ask the schema registry for the schema of id {id}: {why}")))
            }
            Err(RegistryError::Refused(why)) => Err(Failure::Blocked(format!("the schema registry refuses the schema of id {id}: {why}"))),
        }
    }

    fn writer(&self, id: SchemaId, resolved: &Resolved) -> Writer {
        let Resolved { schema, references } = resolved;
        if schema.kind != millrace_registry::Kind::Avro {
            return Writer::Unreadable(format!("its schema, id {id}, is of the kind {}", schema.kind));
        }
        // A registry may write a schema in a way of its own.
        let as_json = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        if as_json(&schema.text) == as_json(TELEMETRY_SCHEMA) {
            return Writer::Today;
        }
        let mut beside = |name: &str| references.iter().find(|(known, _)| known == name).map(|(_, schema)| schema.text.clone());
        match Contract::compile(Kind::Avro, &schema.text, None, &mut beside) {
            Ok(contract) => Writer::Other(Box::new(contract)),
            Err(error) => Writer::Unreadable(format!("its schema, id {id}, cannot be read: {error}")),
        }
    }
}
