//! The SQL source against the suite of every source, with a PostgreSQL of Debian. Alone in its binary: it measures memory.

use async_trait::async_trait;
use millrace_contract::Compiled;
use millrace_sql::SqlSource;
use millrace_testkit::conformance::{Device, SourceFixture};
use millrace_testkit::{Database, FaultProxy, Received, yaml};
use std::ops::Range;

#[global_allocator]
static MEMORY: millrace_testkit::CountingAllocator = millrace_testkit::CountingAllocator;

struct Servers;

struct Table {
    database: Database,
    cable: FaultProxy,
}

#[async_trait]
impl SourceFixture for Servers {
    async fn device(&self) -> Box<dyn Device> {
        let database = Database::postgres();
        database.run(
            "CREATE TABLE numbers (id bigserial PRIMARY KEY, number bigint, name text DEFAULT 'n', filling text); GRANT SELECT ON numbers TO millrace",
        );
        let cable = FaultProxy::to(format!("127.0.0.1:{}", database.port())).await;
        Box::new(Table { database, cable })
    }
}

#[async_trait]
impl Device for Table {
    fn compile(&self) -> Box<dyn Compiled> {
        let text = format!(
            "{{endpoint: 'postgres://127.0.0.1:{}/plant', login: {{user: millrace, password: secret}}, timeout: 1s,
               queries: [{{table: numbers, every: 20ms, watermark: id, key: '{{/name}}', topic: numbers}}]}}",
            self.cable.addr().port()
        );
        yaml::compile::<SqlSource>(&text, &yaml::context("sql", &[])).unwrap_or_else(|problems| panic!("{problems}"))
    }

    async fn emit(&mut self, numbers: Range<u64>) {
        self.database.run(&format!("INSERT INTO numbers (number) SELECT generate_series({}, {})", numbers.start, numbers.end - 1));
    }

    fn number(&self, record: &Received) -> Option<u64> {
        match record {
            Received::Document(document) => document.text().split_once("\"number\":")?.1.split(',').next()?.parse().ok(),
            _ => None,
        }
    }

    fn cable(&self) -> Option<&FaultProxy> {
        Some(&self.cable)
    }

    async fn emit_bad(&mut self) -> bool {
        self.database.run("INSERT INTO numbers (number, name) VALUES (-1, NULL)");
        true
    }

    async fn pump(&mut self) -> bool {
        self.database.run("INSERT INTO numbers (number, filling) SELECT -1, repeat('x', 1000) FROM generate_series(1, 100000)");
        true
    }
}

millrace_testkit::source_conforms!(the_sql_source, Servers);
