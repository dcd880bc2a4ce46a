//! The shop's node manager: values out of the address space, writes into it, history read back in pages.

use opcua::server::ContinuationPoint;
use opcua::server::address_space::{AddressSpace, write_node_value};
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{InMemoryNodeManager, InMemoryNodeManagerImpl};
use opcua::server::node_manager::{HistoryNode, RequestContext, ServerContext, WriteNode};
use opcua::sync::{Mutex, RwLock};
use opcua::types::{
    AttributeId, DataEncoding, DataValue, DateTime, HistoryData, NodeId, NumericRange, ReadRawModifiedDetails, StatusCode,
    TimestampsToReturn,
};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Values kept per node with history; at ten a second a quarter of an hour.
const HISTORY_VALUES: usize = 10_000;
/// Values in one answer of HistoryRead; the rest waits behind a continuation point.
const PAGE_VALUES: usize = 1_000;

pub type FloorManager = InMemoryNodeManager<Floor>;

/// What was, of the nodes that keep it; by the text of their node id, which outlives a changed namespace table.
#[derive(Default)]
pub struct History(HashMap<String, Series>);

#[derive(Default)]
struct Series {
    /// How many values were dropped in front: numbers of values stay what they were.
    gone: usize,
    values: VecDeque<DataValue>,
}

impl History {
    pub fn keep(&mut self, node: &NodeId, value: &DataValue) {
        let series = self.0.entry(node.identifier.to_string()).or_default();
        if series.values.len() == HISTORY_VALUES {
            series.values.pop_front();
            series.gone += 1;
        }
        series.values.push_back(value.clone());
    }

    /// One page from a value's number on, or from the beginning of the span asked for; and the number of the next page.
    fn page(&self, node: &NodeId, span: &ReadRawModifiedDetails, from: Option<usize>) -> (Vec<DataValue>, Option<usize>) {
        let Some(series) = self.0.get(&node.identifier.to_string()) else {
            return (Vec::new(), None);
        };
        let time = |value: &DataValue| value.source_timestamp.unwrap_or_else(DateTime::null);
        let (start, end) = (span.start_time, span.end_time);
        let backward = start.is_null() || (!end.is_null() && end < start);
        let (low, high) = if backward { (end, start) } else { (start, end) };
        let high_is_in = |value: &DataValue| high.is_null() || if backward { time(value) <= high } else { time(value) < high };
        let low_is_in = |value: &DataValue| low.is_null() || if backward { time(value) > low } else { time(value) >= low };
        let limit = match span.num_values_per_node as usize {
            0 => PAGE_VALUES,
            wanted => wanted.min(PAGE_VALUES),
        };
        let numbered = series.values.iter().enumerate().map(|(index, value)| (series.gone + index, value));
        let in_span = numbered.filter(|(_, value)| high_is_in(value) && low_is_in(value));
        let mut page: Vec<(usize, &DataValue)> = if backward {
            in_span.rev().filter(|(number, _)| from.is_none_or(|from| *number <= from)).take(limit + 1).collect()
        } else {
            in_span.filter(|(number, _)| from.is_none_or(|from| *number >= from)).take(limit + 1).collect()
        };
        let next = (page.len() > limit).then(|| page.pop().map(|(number, _)| number)).flatten();
        (page.into_iter().map(|(_, value)| value.clone()).collect(), next)
    }
}

pub struct Floor {
    namespaces: Vec<NamespaceMetadata>,
    history: Arc<Mutex<History>>,
}

impl Floor {
    /// Registers the namespaces, in this order; the last is the shop's own.
    pub fn new(context: &ServerContext, space: &mut AddressSpace, uris: &[String], history: Arc<Mutex<History>>) -> Self {
        let mut types = context.type_tree.write();
        let namespaces = uris.iter().map(|uri| {
            let namespace_index = types.namespaces_mut().add_namespace(uri);
            space.add_namespace(uri, namespace_index);
            NamespaceMetadata { namespace_uri: uri.clone(), namespace_index, ..Default::default() }
        });
        Self { namespaces: namespaces.collect(), history }
    }

    /// The index of the shop's own namespace.
    pub fn namespace(&self) -> u16 {
        self.namespaces.last().map_or(0, |own| own.namespace_index)
    }
}

#[async_trait::async_trait]
impl InMemoryNodeManagerImpl for Floor {
    async fn init(&self, _: &mut AddressSpace, _: ServerContext) {}

    fn name(&self) -> &str {
        "press shop"
    }

    fn namespaces(&self) -> Vec<NamespaceMetadata> {
        self.namespaces.clone()
    }

    async fn history_read_raw_modified(
        &self,
        _: &RequestContext,
        details: &ReadRawModifiedDetails,
        nodes: &mut [&mut &mut HistoryNode],
        _: TimestampsToReturn,
    ) -> Result<(), StatusCode> {
        let history = self.history.lock();
        for node in nodes {
            if details.is_read_modified {
                node.set_status(StatusCode::BadHistoryOperationUnsupported);
                continue;
            }
            let from = node.continuation_point().and_then(|point| point.get::<usize>()).copied();
            let (values, next) = history.page(node.node_id(), details, from);
            node.set_status(if values.is_empty() { StatusCode::GoodNoData } else { StatusCode::Good });
            node.set_result(HistoryData { data_values: Some(values) });
            node.set_next_continuation_point(next.map(|number| ContinuationPoint::new(Box::new(number))));
        }
        Ok(())
    }

    async fn write(&self, context: &RequestContext, space: &RwLock<AddressSpace>, nodes: &mut [&mut WriteNode]) -> Result<(), StatusCode> {
        let mut space = space.write();
        let types = context.type_tree().read();
        for write in nodes {
            let outcome = match space.validate_node_write(context, write.value(), &*types) {
                Err(status) => Err(status),
                Ok(_) if write.value().attribute_id != AttributeId::Value => Err(StatusCode::BadNotWritable),
                Ok(node) => write_node_value(node, write.value()).map(|()| {
                    let attribute = |node: &dyn opcua::nodes::Node| {
                        node.get_attribute(TimestampsToReturn::Both, AttributeId::Value, &NumericRange::None, &DataEncoding::Binary)
                    };
                    if let Some(value) = attribute(node.as_node()) {
                        context.subscriptions().notify_data_change([(value, node.as_node().node_id(), AttributeId::Value)].into_iter());
                    }
                }),
            };
            write.set_status(outcome.err().unwrap_or(StatusCode::Good));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u16) -> DateTime {
        DateTime::ymd_hms(2026, 1, 1, second / 3600, second / 60 % 60, second % 60)
    }

    fn seconds(values: &[DataValue]) -> Vec<f64> {
        values.iter().map(|value| value.value.as_ref().and_then(|value| value.as_f64()).expect("a number")).collect()
    }

    #[test]
    fn history_comes_in_pages_forward_and_backward_without_the_bound_at_the_end() {
        let node = NodeId::new(2, "a");
        let mut history = History::default();
        for second in 0..100 {
            history.keep(&node, &DataValue::new_at(f64::from(second), at(second)));
        }
        let span = |from, to| ReadRawModifiedDetails { start_time: from, end_time: to, num_values_per_node: 40, ..Default::default() };
        let (first, next) = history.page(&node, &span(at(10), at(70)), None);
        assert_eq!((seconds(&first)[0], first.len(), next), (10.0, 40, Some(50)));
        let (second, next) = history.page(&node, &span(at(10), at(70)), next);
        assert_eq!((seconds(&second)[0], second.len(), next), (50.0, 20, None));
        let (back, next) = history.page(&node, &span(at(70), at(10)), None);
        assert_eq!((seconds(&back)[..2].to_vec(), back.len(), next), (vec![70.0, 69.0], 40, Some(30)));
        assert_eq!(history.page(&NodeId::new(2, "b"), &span(at(0), at(9)), None), (Vec::new(), None));
    }

    #[test]
    fn history_forgets_the_oldest_and_keeps_its_numbers() {
        let node = NodeId::new(2, "a");
        let mut history = History::default();
        for second in 0..HISTORY_VALUES as u16 + 5 {
            history.keep(&node, &DataValue::new_at(f64::from(second), at(second)));
        }
        let all = ReadRawModifiedDetails { start_time: at(0), ..Default::default() };
        let (page, next) = history.page(&node, &all, None);
        assert_eq!((seconds(&page)[0], page.len(), next), (5.0, PAGE_VALUES, Some(PAGE_VALUES + 5)));
    }
}
