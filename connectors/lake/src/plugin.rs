//! The plugin `lake`: what its keys compile to.

#[cfg(feature = "tables")]
use crate::config::{Cloud, TableFormat};
use crate::config::{LakeConfig, Place, Shape};
use millrace_config::{Problems, Severity};
use millrace_contract::{Carries, Compiled, Context, Plugin, Role};
use millrace_schemas::contract::Kind;

/// The plugin `lake`.
pub struct LakeSink;

impl Plugin for LakeSink {
    const TYPE: &'static str = "lake";
    const ROLE: Role = Role::Sink;
    type Config = LakeConfig;

    fn compile(config: LakeConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let before = problems.iter().count();
        let mut place = config.place(&context.levels, problems);
        match context.carries {
            Carries::Samples => {}
            Carries::Documents => {
                if let Some(level) = config.partition_by.get(1) {
                    problems.error(level.place, "documents lie in folders by day alone").help("write `partition_by: [date]`");
                }
                if context.schemas.iter().any(|schema| schema.kind == Kind::Protobuf) {
                    problems
                        .error(context.place, format!("sink {} reads documents in Protobuf, which it can't take apart", context.name))
                        .help("a lake takes documents in JSON or Avro; others can be archived with `type: file`");
                }
                place.shape = Shape::Documents;
            }
            Carries::Both => {
                problems
                    .error(context.place, format!("sink {} reads topics of samples and topics of documents", context.name))
                    .help("a table holds one or the other: declare two sinks; topics of samples say `schema: telemetry`, and patterns with `*` say neither");
            }
        }
        if problems.iter().skip(before).any(|problem| problem.severity == Severity::Error) {
            return None;
        }
        compiled(&config, place, context, problems)
    }
}

#[cfg(feature = "tables")]
fn compiled(config: &LakeConfig, place: Place, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
    let lacks = |what: &str, feature: &str| {
        format!("this build can't write {what}, which sink {} asks for; it lacks the feature `{feature}`", context.name)
    };
    for (is_wanted, is_there, what, feature) in [
        (place.format == TableFormat::Iceberg, cfg!(feature = "iceberg"), "Iceberg tables", "lake-iceberg"),
        (place.cloud() == Some(Cloud::Hdfs), cfg!(feature = "hdfs"), "to HDFS", "lake-hdfs"),
    ] {
        if is_wanted && !is_there {
            problems
                .error(context.place, lacks(what, feature))
                .help(format!("build it with that feature: cargo build --release -p millrace --features {feature}"));
            return None;
        }
    }
    let upkeep = config.upkeep.clone().unwrap_or_default();
    // The catalog may tend an Iceberg table itself.
    let is_tended = upkeep.enabled && (place.format != TableFormat::Iceberg || config.upkeep.is_some());
    let turns = is_tended.then(|| crate::tending::Turns {
        every: upkeep.every.0,
        keep: upkeep.keep.0,
        // It is in memory beside what waits.
        target: i64::try_from(config.memory.0 / 2).unwrap_or(i64::MAX).min(64 << 20),
    });
    Some(Box::new(crate::sink::CompiledSink::new(place, config.commit_every(), config.memory.0, turns, context)))
}

#[cfg(not(feature = "tables"))]
fn compiled(_config: &LakeConfig, _place: Place, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
    problems
        .error(context.place, format!("this build can't write tables, which sink {} asks for", context.name))
        .help("build it with the feature `lake`: cargo build --release -p millrace --features lake");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A factory's sink that reads this topic.
    fn compiled(carries: Carries, text: &str) -> Result<Box<dyn Compiled>, String> {
        let context = Context { carries, ..millrace_testkit::yaml::context("history", &["telemetry"]) };
        millrace_testkit::yaml::compile::<LakeSink>(text, &context)
    }

    #[test]
    fn topics_of_both_kinds_are_refused() {
        assert!(compiled(Carries::Both, "table: a\n").err().is_some_and(|problems| problems.contains("declare two sinks")));
        let by_level = "table: a\npartition_by: [date, area]\n";
        assert!(compiled(Carries::Documents, by_level).err().is_some_and(|problems| problems.contains("by day alone")));
    }

    #[cfg(feature = "tables")]
    #[test]
    fn a_plan_says_what_is_written_where() {
        let plan = compiled(Carries::Samples, "table: a\n").unwrap().plan();
        assert!(plan.lines[0].contains("writes telemetry to a Delta table in folders by date, sorted by tag and time"), "{plan:?}");
        assert!(plan.lines[2].contains("merges small files of days that are over every 3600s"), "{plan:?}");
        let plan = compiled(Carries::Documents, "table: a\nupkeep: {enabled: false}\n").unwrap().plan();
        assert!(plan.lines[0].contains("in folders by kafka_date, a column for each field"), "{plan:?}");
        assert_eq!(plan.lines.len(), 2, "{plan:?}");
    }

    #[cfg(not(feature = "tables"))]
    #[test]
    fn a_build_without_tables_says_what_to_build() {
        assert!(compiled(Carries::Samples, "table: a\n").err().is_some_and(|problems| problems.contains("--features lake")));
    }
}
