//! The plugin `erp`, as a sink: what its keys compile to.

use crate::config::{self, AtService};
use crate::pending::Memory;
use crate::posting::{ErpSinkConfig, Operation, Posting};
use crate::service::Endpoint;
use crate::sink::ErpSink;
use millrace_config::Problems;
use millrace_contract::{Compiled, Context, Guarantee, Model, Plan, Plugin, Role, Sink};
use std::sync::Arc;

/// The plugin `erp`, as a sink.
pub struct ErpSinkPlugin;

impl Plugin for ErpSinkPlugin {
    const TYPE: &'static str = "erp";
    const ROLE: Role = Role::Sink;
    type Config = AtService<ErpSinkConfig>;

    fn compile(config: Self::Config, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let mark = problems.mark();
        let (at, sap, config) = (config.shared, config.own.shared, config.own.own);
        let endpoint = config::endpoint(&at, &sap, problems);
        match (&config.entity_set, &config.action) {
            (None, None) => {
                problems
                    .error(at.endpoint.place, "the sink has neither `entity_set` nor `action`")
                    .help("write `entity_set: Confirmations`");
            }
            (_, Some(action)) if config.operation == Operation::Update => {
                problems.error(action.place, "an action is called, not updated").help("leave `operation` out");
            }
            _ => {}
        }
        if config.batch.value == 0 || config.batch.value > 1_000 {
            problems.error(config.batch.place, format!("`batch: {}` is not between 1 and 1000", config.batch.value));
        }
        if config.action.is_some()
            && config.entity_set.is_none()
            && let Some(lookup) = &config.lookup
        {
            problems.error(lookup.place, "`lookup` looks into an entity set, and there is none").help("add `entity_set`");
        }
        if config.operation == Operation::Create && config.lookup.is_none() {
            problems
                .warn(at.endpoint.place, "without `lookup` a lost answer is safe only where the service keeps request ids")
                .help("name a property that identifies a record: `lookup: externalId`");
        }
        if let Some(reply) = config.reply.as_ref().filter(|reply| context.topics.contains(reply)) {
            problems.error(context.place, format!("the sink reads topic {reply} and writes its replies there"));
        }
        if problems.has_errors_since(mark) {
            return None;
        }
        let posting = Posting {
            set: config.entity_set.map(|set| set.value),
            operation: config.operation,
            action: config.action.map(|action| action.value),
            batch: usize::from(config.batch.value),
            lookup: config.lookup.map(|lookup| lookup.value),
            unknown: config.unknown,
            on_conflict: config.on_conflict,
            reply: config.reply,
            later: config.later.iter().map(|word| word.to_lowercase()).collect(),
            retry_after: config.retry_after.0,
            name: format!("{}/{}", context.site, context.name),
        };
        Some(Box::new(CompiledSink {
            endpoint: Arc::new(endpoint?),
            posting: Arc::new(posting),
            memory: Arc::default(),
            topics: context.topics.clone(),
            model: Model::default(),
        }))
    }
}

struct CompiledSink {
    endpoint: Arc<Endpoint>,
    posting: Arc<Posting>,
    /// What outlives an instance.
    memory: Arc<Memory>,
    topics: Vec<String>,
    model: Model,
}

impl Compiled for CompiledSink {
    fn model(&self) -> &Model {
        &self.model
    }

    fn sink(&self) -> Option<Box<dyn Sink>> {
        Some(Box::new(ErpSink::new(self.endpoint.clone(), self.posting.clone(), self.memory.clone())))
    }

    fn guarantee(&self) -> Guarantee {
        let posting = &self.posting;
        match (posting.operation, &posting.lookup) {
            (Operation::Update, _) => Guarantee::AtLeastOnce("an update that is repeated sets the same values".into()),
            (_, Some(lookup)) => Guarantee::ExactlyOnce(format!("each is looked up by {lookup} before it is posted")),
            (_, None) => {
                Guarantee::AtLeastOnce("each has a request id that is the same when it is repeated; a service that does not keep ids may carry out a repeat after a crash".into())
            }
        }
    }

    fn plan(&self) -> Plan {
        let posting = &self.posting;
        let set = posting.set.as_deref().unwrap_or_default();
        let what = match (&posting.action, posting.operation) {
            (Some(action), _) if set.is_empty() => format!("calls {action} by POST {}{action}", self.endpoint.root()),
            (Some(action), _) => format!("calls {action} by POST, on {}{set}(key) where it is bound to it", self.endpoint.root()),
            (None, Operation::Create) => format!("creates an entity by POST {}{set}", self.endpoint.root()),
            (None, Operation::Update) => format!("updates an entity by PATCH {}{set}(key), with its ETag", self.endpoint.root()),
        };
        let mut lines: Vec<String> = self.topics.iter().map(|topic| format!("of each record of topic {topic}: {what}")).collect();
        lines.push(format!("logs in {}", self.endpoint.server.login_words()));
        lines.push(match &posting.lookup {
            Some(lookup) => format!("looks up by {lookup} what may have been posted already"),
            None => "gives each request an id that is the same when it is repeated".into(),
        });
        if posting.batch > 1 {
            lines.push(format!("sends up to {} operations in one $batch, each in a change set of its own", posting.batch));
        }
        if let Some(reply) = &posting.reply {
            lines.push(format!("writes what the ERP says to topic {reply}"));
        }
        Plan { endpoint: self.endpoint.root().to_string(), lines, rate: None }
    }
}
