//! What goes on beside the publishing of a session: watching the connection, looking for nodes that came, values that nothing said.

use crate::compiled::is_subscribed;
use crate::discover::{self, Found};
use crate::poll;
use crate::session::{Session, value_of};
use crate::shared::Shared;
use millrace_contract::Failure;
use millrace_schemas::Origin;
use opcua::types::VariableId;
use std::time::Duration;

/// Changes of an address space come in swarms: it is looked at once they have settled for so long.
const MODEL_SETTLES: Duration = Duration::from_secs(1);

/// What a session's side tasks ended with.
pub enum Aside {
    Failed(Failure),
    Changed(usize, Vec<Found>),
}

/// Asks the server whether it is there, and whether its namespaces are what they were.
pub async fn keep_alive(shared: &Shared, session: &Session) -> Failure {
    let every = shared.job.keep_alive / 2;
    loop {
        tokio::time::sleep(every).await;
        let asked = session.read(&[value_of(VariableId::Server_ServerStatus_State.into())]).await;
        let result = match asked {
            Ok(_) => session.read_space().await,
            Err(refused) => Err(refused),
        };
        match result {
            Ok(false) => {}
            Ok(true) => return Failure::Reconnect(format!("the namespace table of {} changed", shared.url())),
            Err(refused) => return Failure::Reconnect(format!("{} does not answer: {refused}", shared.url())),
        }
    }
}

/// Looks for a group's variables again, now and then, and when the server says that some came or went.
pub async fn look_again(shared: &Shared, session: &Session, group: usize, known: Vec<usize>) -> Aside {
    let job = &shared.job;
    let Some(browse) = &job.polled.groups[group].own.browse else { return std::future::pending().await };
    let mut model = shared.model.subscribe();
    loop {
        let again = async {
            match browse.again {
                Some(again) => tokio::time::sleep(again).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = again => {}
            _ = model.changed() => {
                let settled = async { while tokio::time::timeout(MODEL_SETTLES, model.changed()).await.is_ok() {} };
                let _ = tokio::time::timeout(MODEL_SETTLES * 10, settled).await;
            }
        }
        let look = match discover::look(session, browse, &job.polled.groups[group], &shared.at).await {
            Ok(look) => look,
            Err(refused) => return Aside::Failed(refused.into()),
        };
        let is_same = {
            let readings = shared.readings.lock();
            let mut paths: Vec<&str> = known.iter().map(|handle| readings.item(*handle).def.path.as_str()).collect();
            paths.sort_unstable();
            paths.iter().copied().eq(look.found.iter().map(|found| found.def.path.as_str()))
        };
        if !is_same && look.complaint.is_none() {
            return Aside::Changed(group, look.found);
        }
    }
}

/// Of subscriptions that go on, what does not change says nothing: it is read once.
pub async fn first_values(shared: &Shared, session: &Session) -> Failure {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let unseen: Vec<usize> = {
        let readings = shared.readings.lock();
        let is_subscribed = |handle: &usize| {
            let index = readings.item(*handle).index;
            index.is_some_and(|index| is_subscribed(&shared.job.polled.groups[shared.job.polled.tags[index].group]))
                && !shared.job.is_method(index)
        };
        (0..readings.len()).filter(|handle| readings.is_unseen(*handle)).filter(is_subscribed).collect()
    };
    if !unseen.is_empty()
        && let Err(refused) = poll::read_now(shared, session, &unseen, Origin::Initial).await
    {
        return refused.into();
    }
    std::future::pending().await
}
