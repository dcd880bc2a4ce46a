//! `millrace query --sql`, on the command line and over HTTP: free SQL over the tables of the lake and what is still in Kafka only.

use crate::lake::{Lake, runtime};
use crate::query::{Options, Output, grid, lines_of_csv, out, quoted, tail_of};
use crate::say::{self, say, tell};
use anyhow::{Result, anyhow, bail};
use millrace_config::Factory;
use millrace_lake::shown;
use millrace_lake::sql::{Database, Rows, Statement};
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// What came of it.
pub struct Answered {
    pub rows: Rows,
    /// Why only the lake was asked, where Kafka was to be asked, too.
    pub trouble: Option<String>,
}

/// Asks the tables, and Kafka for what their sinks have not committed yet.
pub fn ask(lakes: Vec<Lake>, factory: Option<&Factory>, lake_only: bool, statement: &Statement) -> Result<Answered> {
    let runtime = runtime()?;
    let site = factory.map(|factory| factory.site.to_string());
    let places = lakes.iter().map(|lake| (lake.name.clone(), lake.place.clone())).collect();
    let mut database = Database::open(places, site, runtime.handle().clone()).map_err(|error| anyhow!(error))?;
    let mut trouble = None;
    for (index, lake) in lakes.iter().enumerate() {
        let Some(factory) = factory.filter(|_| !lake_only && database.holds_samples(index)) else { continue };
        let mut batches = Vec::new();
        let held = |upstream: &_, parts: &[_]| database.positions(index, upstream, parts);
        match tail_of(factory, &lake.group, &lake.topics, runtime.handle(), held, |batch| batches.push(batch.clone())) {
            Ok(until) => {
                batches.iter().for_each(|batch| database.push(index, batch));
                database.is_read_until(index, until);
            }
            Err(error) => trouble = Some(format!("{}: {error:#}", lake.name)),
        }
    }
    let rows = database.run(statement);
    // An answer that was given up may compute for a moment more.
    runtime.shutdown_background();
    let rows = rows.map_err(|error| anyhow!(error))?;
    Ok(Answered { rows, trouble })
}

impl Answered {
    pub fn to_json(&self) -> Value {
        let Rows { columns, rows, is_cut, bytes, tables, .. } = &self.rows;
        let lines: Vec<Value> =
            rows.iter().map(|row| columns.iter().cloned().zip(row.iter().cloned()).collect::<Map<_, _>>().into()).collect();
        let tables: Vec<Value> = tables
            .iter()
            .map(|table| json!({"name": table.name, "version": table.version, "complete_until": shown::time(table.complete_until)}))
            .collect();
        let mut whole = json!({"columns": columns, "rows": lines, "cut": is_cut, "bytes": bytes, "tables": tables});
        if let Some(trouble) = &self.trouble {
            whole["lake_only_because"] = json!(trouble);
        }
        whole
    }
}

pub fn query(sql: &str, options: &Options) -> Result<ExitCode> {
    let output = options.output();
    if matches!(output, Output::Plot | Output::Svg | Output::Png) {
        bail!("an answer of SQL is no plot; take table, csv, json or parquet");
    }
    let statement = Statement {
        sql: sql.to_owned(),
        rows: options.limit,
        memory: usize::try_from(options.memory.0).unwrap_or(usize::MAX),
        patience: options.patience.0,
        as_parquet: output == Output::Parquet,
    };
    let (lakes, factory) = options.table.all()?;
    let answered = ask(lakes, factory.as_ref(), options.lake_only, &statement)?;
    if let Some(trouble) = &answered.trouble {
        tell!("only the lake is asked: {trouble}");
    }
    let rows = &answered.rows;
    let header: Vec<&str> = rows.columns.iter().map(String::as_str).collect();
    match output {
        Output::Json => say::json(&answered.to_json()),
        Output::Table => grid(&header, &rows.rows),
        Output::Parquet => out(rows.parquet.as_deref().unwrap_or_default(), options)?,
        _ => {
            say!("{}", header.iter().map(|name| quoted((*name).to_owned())).collect::<Vec<_>>().join(","));
            lines_of_csv("", &rows.rows);
        }
    }
    if output != Output::Json {
        if rows.is_cut {
            tell!("cut at {} rows: there are more (--limit)", options.limit);
        }
        tell!("{} bytes read", rows.bytes);
        for table in &rows.tables {
            tell!("{}: version {}, complete up to {}", table.name, table.version, say::time(table.complete_until));
        }
    }
    Ok(ExitCode::SUCCESS)
}
