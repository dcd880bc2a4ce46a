//! FindCoordinator: this node, for every group and every transaction.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use crate::broker::NODE;
use crate::call::Call;

/// Groups and transactions; what else may be asked for (share groups) is not here.
const KEY_TYPES: std::ops::RangeInclusive<i8> = 0..=1;

pub async fn find_coordinator(call: &Call, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let host = StrBytes::from_string(call.session.local.ip().to_canonical().to_string());
    let port = i32::from(call.session.local.port());
    let known = KEY_TYPES.contains(&request.key_type);
    if call.version < 4 {
        let response = FindCoordinatorResponse::default();
        return if known {
            response.with_node_id(BrokerId(NODE)).with_host(host).with_port(port)
        } else {
            response.with_error_code(ResponseError::InvalidRequest.code()).with_node_id(BrokerId(-1)).with_port(-1)
        };
    }
    let coordinator = |key: StrBytes| {
        let coordinator = Coordinator::default().with_key(key);
        if known {
            coordinator.with_node_id(BrokerId(NODE)).with_host(host.clone()).with_port(port)
        } else {
            coordinator.with_error_code(ResponseError::InvalidRequest.code()).with_node_id(BrokerId(-1)).with_port(-1)
        }
    };
    FindCoordinatorResponse::default().with_coordinators(request.coordinator_keys.into_iter().map(coordinator).collect())
}
