//! The table of a sink: made where it is missing, widened, and written together with the positions in Kafka, in one transaction. What the databases do each in
//! their own way is [`Database`].
//!
//! ```text
//! BEGIN; UPDATE millrace_positions SET next = new WHERE id = .. AND next = as it was    (no row: fenced)
//!        rows                                                                           (refused: each half by itself, to the row)
//! COMMIT
//! ```

use crate::sink_config::SinkSettings;
use crate::sink_rows::Row;
use crate::statement::Dialect;
use async_trait::async_trait;
use millrace_contract::{Failure, Offset, Refused};
use millrace_kit::documents::{Column, Kind};
use millrace_kit::parts::Move;
use std::collections::HashMap;

/// A table, as it is known.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub path: Vec<String>,
    /// As SQL has it.
    pub name: String,
    pub key: Vec<String>,
    /// Its columns' types, as the database has them.
    pub types: HashMap<String, String>,
}

/// Where rows go: all of them, or as many as one statement takes.
#[derive(Debug)]
pub struct To<'a> {
    pub table: &'a Table,
    /// The table's name, or that of a stage before it.
    pub name: &'a str,
    pub columns: &'a [Column],
    /// Each row has its number behind its columns.
    pub is_numbered: bool,
}

/// A connection, and what a database does in its own way.
#[async_trait]
pub trait Database: Send {
    fn dialect(&self) -> Dialect;

    /// The type of a column that is made.
    fn type_of(&self, kind: Kind, is_key: bool) -> String;

    /// What can be written to a column, by its type's name.
    fn kind_of(&self, of: &str) -> Kind;

    /// The statements that make a table, if it is not there: `columns` as they stand between the parentheses.
    fn make(&self, table: &Table, columns: &str, has_tags: bool) -> Vec<String>;

    /// The columns of a table of positions.
    fn positions_columns(&self) -> &'static str;

    async fn run(&mut self, sql: &str) -> Result<(), Failure>;

    /// The types of a table's columns; none: it is not there.
    async fn types(&mut self, table: &Table) -> Result<HashMap<String, String>, Failure>;

    /// Adds columns, `name type` each; one that another runtime was quicker to add is no error.
    async fn add(&mut self, table: &Table, columns: &[String]) -> Result<(), Failure>;

    async fn positions(&mut self, table: &str, ids: &[String]) -> Result<Vec<Option<Offset>>, Failure>;

    /// Moves a position; false: it is not where it was.
    async fn advance(&mut self, table: &str, one: &Move) -> Result<bool, Failure>;

    /// Writes rows within the transaction; those that the table will never take go to `refused`.
    async fn rows(&mut self, table: &Table, columns: &[Column], rows: &[Row<'_>], refused: &mut Vec<Refused>) -> Result<(), Failure>;

    /// Writes rows by one statement; why the table refused one of them, where it did.
    async fn put(&mut self, into: &To<'_>, rows: &[Row<'_>]) -> Result<Option<String>, Failure>;

    /// Writes groups of rows, each by one statement; where the table refuses, each half by itself, down to the row.
    async fn bisect(&mut self, into: &To<'_>, mut open: Vec<&[Row<'_>]>, refused: &mut Vec<Refused>) -> Result<(), Failure> {
        open.reverse();
        while let Some(rows) = open.pop() {
            self.run("SAVEPOINT millrace").await?;
            let Some(reason) = self.put(into, rows).await? else {
                self.run("RELEASE SAVEPOINT millrace").await?;
                continue;
            };
            self.run("ROLLBACK TO SAVEPOINT millrace").await?;
            match rows {
                [row] => refused.push(Refused { partition: row.partition.clone(), offset: row.offset, reason }),
                rows => {
                    let (first, second) = rows.split_at(rows.len() / 2);
                    open.extend([second, first]);
                }
            }
        }
        Ok(())
    }
}

/// A sink's table and the connection to its database.
pub struct Target {
    database: Box<dyn Database>,
    table: Table,
}

impl Target {
    /// Makes what is missing, and looks at the table.
    ///
    /// Errors: `Blocked`: the table has other columns than the rows, or this user may not; `Reconnect`: the database can't be reached.
    pub async fn open(database: Box<dyn Database>, settings: &SinkSettings, columns: &[Column]) -> Result<Self, Failure> {
        let path: Vec<String> = settings.table.split('.').map(str::to_owned).collect();
        let key = settings.key.iter().map(|column| column.name.to_string()).collect();
        let name = database.dialect().path(&path);
        let mut this = Self { database, table: Table { path, name, key, types: HashMap::new() } };
        let positions = format!("CREATE TABLE IF NOT EXISTS {} {}", this.positions_table(), this.database.positions_columns());
        this.database.run(&positions).await?;
        this.look().await?;
        if this.table.types.is_empty() {
            this.make(columns, &settings.key).await?;
        }
        this.widen(columns).await?;
        Ok(this)
    }

    fn positions_table(&self) -> String {
        self.database.dialect().positions_beside(&self.table.path)
    }

    fn quoted(&self, name: &str) -> String {
        self.database.dialect().quote(name)
    }

    async fn look(&mut self) -> Result<(), Failure> {
        self.table.types = self.database.types(&self.table).await?;
        Ok(())
    }

    async fn make(&mut self, columns: &[Column], key: &[Column]) -> Result<(), Failure> {
        let is_key = |column: &Column| key.iter().any(|one| one.name == column.name);
        let others = key.iter().filter(|column| !columns.iter().any(|known| known.name == column.name));
        let declared = columns.iter().chain(others);
        let mut all: Vec<String> = declared
            .map(|column| format!("{} {}", self.quoted(&column.name), self.database.type_of(column.kind, is_key(column))))
            .collect();
        if !key.is_empty() {
            let names: Vec<String> = key.iter().map(|column| self.quoted(&column.name)).collect();
            all.push(format!("PRIMARY KEY ({})", names.join(", ")));
        }
        let has_tags = key.is_empty() && columns.iter().any(|column| &*column.name == "tag");
        for sql in self.database.make(&self.table, &all.join(", "), has_tags) {
            self.database.run(&sql).await?;
        }
        tracing::info!(table = self.table.name, "made a table");
        self.look().await
    }

    /// The table's columns, by what can be written to them.
    pub fn columns(&self) -> Vec<Column> {
        self.table.types.iter().map(|(name, of)| Column::new(name, self.database.kind_of(of))).collect()
    }

    /// Adds columns that the table lacks. It may end a transaction: not in the middle of one.
    ///
    /// Errors: one is there with another type.
    pub async fn widen(&mut self, columns: &[Column]) -> Result<(), Failure> {
        for column in columns {
            let Some(of) = self.table.types.get(&*column.name) else { continue };
            let there = self.database.kind_of(of);
            let is_so = there == column.kind
                || matches!(
                    (there, column.kind),
                    (Kind::Time(_), Kind::Time(_)) | (Kind::Text, Kind::Json) | (Kind::Decimal(..), Kind::Decimal(..))
                );
            if !is_so {
                return Err(Failure::Blocked(format!(
                    "column `{}` of table {} is {of}, and what comes is {}; name another table",
                    column.name, self.table.name, column.kind
                )));
            }
        }
        let lacking: Vec<String> = columns
            .iter()
            .filter(|column| !self.table.types.contains_key(&*column.name))
            .map(|column| format!("{} {}", self.quoted(&column.name), self.database.type_of(column.kind, false)))
            .collect();
        if !lacking.is_empty() {
            self.database.add(&self.table, &lacking).await?;
            self.look().await?;
        }
        Ok(())
    }

    /// The next offsets that the database holds.
    pub async fn positions(&mut self, ids: &[String]) -> Result<Vec<Option<Offset>>, Failure> {
        let table = self.positions_table();
        self.database.positions(&table, ids).await
    }

    /// Writes rows and moves positions, in one transaction. The rows that the table will never take are returned; then nothing was written, and the
    /// others are to be written without them.
    ///
    /// Errors: a position is not where it was; the database can't be reached, or is in the way.
    pub async fn write(&mut self, columns: &[Column], rows: &[Row<'_>], moves: &[Move]) -> Result<Vec<Refused>, Failure> {
        let positions = self.positions_table();
        self.database.run("BEGIN").await?;
        for one in moves {
            if !self.database.advance(&positions, one).await? {
                return Err(Failure::Reconnect(format!(
                    "another writer moved the position of {} from {}; what was read since is read again",
                    one.id,
                    one.from.map_or_else(|| "none".into(), |from| from.to_string())
                )));
            }
        }
        let mut refused = Vec::new();
        if !rows.is_empty() {
            self.database.rows(&self.table, columns, rows, &mut refused).await?;
        }
        // Nothing counts before the dead letters of what was refused are safe.
        self.database.run(if refused.is_empty() { "COMMIT" } else { "ROLLBACK" }).await?;
        Ok(refused)
    }
}

/// `numeric(12,2)`, by the word before the parentheses; of other types, or more digits than a document's decimal has, nothing can be written.
pub fn decimal_of(of: &str, word: &str) -> Kind {
    let inner = of.strip_prefix(word).and_then(|rest| rest.strip_prefix('(')?.strip_suffix(')')?.split_once(','));
    match inner.and_then(|(precision, scale)| Some((precision.parse().ok()?, scale.parse().ok()?))) {
        Some((precision @ 1..=38, scale)) => Kind::Decimal(precision, scale),
        _ => Kind::Other,
    }
}
