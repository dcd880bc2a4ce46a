//! The plugin `erp`, as a source: what its keys compile to.

use crate::asking::Asking;
use crate::config::{AtService, DeltaLinks, ErpSourceConfig, SetConfig, endpoint};
use crate::service::Endpoint;
use crate::set::Set;
use crate::source::ErpSource;
use millrace_config::{Problems, Spanned};
use millrace_contract::{Compiled, Context, Guarantee, Model, Plan, Plugin, Role, Route, Source};
use millrace_kit::Template;
use millrace_kit::shape::namespace;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// The plugin `erp`, as a source.
pub struct ErpSourcePlugin;

impl Plugin for ErpSourcePlugin {
    const TYPE: &'static str = "erp";
    const ROLE: Role = Role::Source;
    type Config = AtService<ErpSourceConfig>;

    fn compile(config: Self::Config, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let mark = problems.mark();
        let (at, sap, config) = (config.shared, config.own.shared, config.own.own);
        let endpoint = endpoint(&at, &sap, problems);
        if config.parallel.value == 0 {
            problems.error(config.parallel.place, "`parallel: 0` asks for nothing").help("write `parallel: 1`");
        }
        if config.entity_sets.is_empty() {
            problems.error(at.endpoint.place, "`entity_sets` is empty").help("write `entity_sets: [{name: ProductionOrders}]`");
        }
        let mut names = HashSet::new();
        let mut sets = Vec::new();
        let mut model = Model::default();
        for set in &config.entity_sets {
            if !names.insert(set.name.value.clone()) {
                problems.error(set.name.place, format!("entity set {} is read twice", set.name.value));
            }
            if let Some(compiled) = compile_set(set, problems) {
                let topic = set.topic.as_deref().map(Arc::from).or_else(|| context.topic.clone());
                let Some(topic) = topic else {
                    problems.error(set.place, format!("entity set {} has no topic", set.name.value)).help("write `topic: orders`");
                    continue;
                };
                model.routes.push(Route { topic, name: set.name.value.clone(), samples: false });
                sets.push(Arc::new(compiled));
            }
        }
        if problems.has_errors_since(mark) {
            return None;
        }
        let endpoint = Endpoint { parallel: usize::from(config.parallel.value), ..endpoint? };
        Some(Box::new(CompiledSource { endpoint: Arc::new(endpoint), sets, model, namespace: namespace(context).into() }))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn compile_set(set: &Spanned<SetConfig>, problems: &mut Problems) -> Option<Set> {
    let name = &set.name;
    if !is_name(name) {
        problems.error(name.place, format!("`{}` is not the name of an entity set", name.value)).help("write `ProductionOrders`");
    }
    if set.every.0 < Duration::from_millis(100) {
        problems.error(set.every.place, format!("`every: {}` is too often for an ERP", set.every.value)).help("write `30s`");
    }
    if set.page.value == 0 || set.page.value > 100_000 {
        problems.error(set.page.place, format!("`page: {}` is not between 1 and 100000", set.page.value));
    }
    if let Some(watermark) = &set.watermark
        && !is_name(watermark)
    {
        problems.error(watermark.place, format!("`{}` is not the name of a property", watermark.value)).help("write `modifiedAt`");
    }
    let known = |name: &str| if is_name(name) { Ok(()) } else { Err("is not the name of a property".into()) };
    let key = match &set.key {
        Some(key) => Some(Template::parse(key, key.place, problems, known)?),
        None => None,
    };
    if let Some(reconcile) = &set.reconcile_every {
        if reconcile.0 < set.every.0 {
            problems
                .error(reconcile.place, format!("`reconcile_every: {}` is more often than `every: {}`", reconcile.value, set.every.value))
                .help("write `reconcile_every: 24h`");
        }
        if let (Some(template), Some(text)) = (&key, &set.key)
            && !Asking::is_possible(template)
        {
            problems
                .error(text.place, format!("`{}` cannot be taken apart again, which `reconcile_every` needs", text.value))
                .help("write something between the properties: `{Plant}/{Material}`");
        }
    }
    if set.watermark.is_none() && set.delta == DeltaLinks::Off {
        problems
            .warn(
                set.place,
                format!("entity set {} has neither a watermark nor delta links: all of it is read every {}", name.value, set.every.value),
            )
            .help("name the property that grows with every change: `watermark: modifiedAt`");
    }
    Some(Set {
        name: name.value.as_str().into(),
        every: set.every.0,
        key,
        watermark: set.watermark.as_ref().map(|watermark| watermark.value.clone()),
        overlap: set.overlap.0,
        select: set.select.clone(),
        filter: set.filter.clone(),
        expand: set.expand.clone(),
        page: set.page.value,
        wants_delta: set.delta == DeltaLinks::Auto,
        left_filter: set.left_filter,
        reconcile_every: set.reconcile_every.as_ref().map(|every| every.0),
    })
}

struct CompiledSource {
    endpoint: Arc<Endpoint>,
    sets: Vec<Arc<Set>>,
    model: Model,
    namespace: Arc<str>,
}

impl Compiled for CompiledSource {
    fn model(&self) -> &Model {
        &self.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(ErpSource::new(self.endpoint.clone(), self.sets.clone(), self.namespace.clone())))
    }

    fn reads_again(&self) -> bool {
        matches!(self.guarantee(), Guarantee::ExactlyOnce(_))
    }

    fn guarantee(&self) -> Guarantee {
        match self.sets.iter().find(|set| set.wants_delta || set.watermark.is_none()) {
            None => Guarantee::ExactlyOnce(format!(
                "the watermark and what was seen in its overlap move with the rows, in the log; after a kill more than 4,096 entities of one overlap, or a \
                 page of more than 4 MiB, may come again. {}",
                match self.sets.iter().find(|set| set.reconcile_every.is_none()) {
                    Some(set) => format!("Deletes of {} are not seen", set.name),
                    None => "Deletes are seen by the next comparison of the keys".into(),
                }
            )),
            Some(set) => Guarantee::AtLeastOnce(format!(
                "the link moves with the last of the rows it gives, in the log; what of {} was being read when the process ended comes again",
                set.name
            )),
        }
    }

    fn keeps_positions(&self) -> bool {
        true
    }

    fn describes(&self) -> bool {
        true
    }

    fn plan(&self) -> Plan {
        let mut lines = vec![format!("logs in {}", self.endpoint.server.login_words())];
        for (set, route) in self.sets.iter().zip(&self.model.routes) {
            let changes = match (set.wants_delta, &set.watermark) {
                (true, Some(watermark)) => format!("delta links, else by {watermark} with an overlap of {:?}", set.overlap),
                (true, None) => "delta links, else all of it again".into(),
                (false, Some(watermark)) => format!("by {watermark} with an overlap of {:?}", set.overlap),
                (false, None) => "all of it again".into(),
            };
            let reconcile = set.reconcile_every.map(|every| format!("; keys compared every {every:?}")).unwrap_or_default();
            lines.push(format!(
                "reads {} into topic {}, every {:?}: {changes}{reconcile}; pages of {}",
                set.name, route.topic, set.every, set.page
            ));
        }
        Plan { endpoint: self.endpoint.root().to_string(), lines, rate: None }
    }
}
