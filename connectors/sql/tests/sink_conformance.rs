//! The SQL sink against the suite of every sink, with PostgreSQL and MariaDB of Debian.

use async_trait::async_trait;
use millrace_contract::{Carries, Compiled, Context};
use millrace_sql::SqlSink;
use millrace_testkit::conformance::SinkFixture;
use millrace_testkit::conformance::sink::{TOPIC, numbered};
use millrace_testkit::{Database, yaml};

millrace_testkit::sink_conforms!(postgresql, Table::new(Database::postgres(), "postgres"));
millrace_testkit::sink_conforms!(mariadb, Table::new(Database::mariadb(), "mysql"));

struct Table {
    database: Database,
    scheme: &'static str,
}

impl Table {
    fn new(database: Database, scheme: &'static str) -> Self {
        Self { database, scheme }
    }
}

#[async_trait]
impl SinkFixture for Table {
    fn compile(&self) -> Box<dyn Compiled> {
        let text = format!(
            "{{endpoint: '{}://127.0.0.1:{}/plant', login: {{user: millrace, password: secret}}, table: history}}",
            self.scheme,
            self.database.port()
        );
        let context = Context { carries: Carries::Samples, ..yaml::context("sql", &[TOPIC]) };
        yaml::compile::<SqlSink>(&text, &context).unwrap_or_else(|problems| panic!("{problems}"))
    }

    async fn read_back(&mut self) -> Vec<(i32, i64)> {
        // Before the first instance there is no table.
        let there = self.database.run("SELECT count(*) FROM information_schema.tables WHERE table_name = 'history'");
        if there == "0" {
            return Vec::new();
        }
        let said = self.database.run("SELECT value_text FROM history ORDER BY tag, time, seq");
        said.lines().map(|line| numbered(line).unwrap_or_else(|| panic!("{line}"))).collect()
    }

    async fn break_target(&mut self) -> bool {
        self.database.run("ALTER TABLE history RENAME TO away");
        true
    }

    async fn mend(&mut self) {
        self.database.run("DROP TABLE IF EXISTS history");
        self.database.run("ALTER TABLE away RENAME TO history");
    }
}
