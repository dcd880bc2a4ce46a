//! Groups, told by their members' requests and the clock's.

use super::*;
use crate::group::membership::join::MEMBERS_MAX;
use proptest::prelude::*;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::sync::oneshot::Receiver;

const SECOND: Duration = Duration::from_secs(1);

/// A group and a clock that the test turns.
struct Table {
    group: Group,
    now: Instant,
}

impl Table {
    fn new() -> Self {
        Self { group: Group::default(), now: Instant::now() }
    }

    fn join(&mut self, join: Join) -> Receiver<Joined> {
        let (reply, answer) = oneshot::channel();
        self.group.join(join, reply, self.now);
        answer
    }

    fn sync(&mut self, joined: &Joined, assignments: &[(&str, &'static str)]) -> Receiver<Synced> {
        let (reply, answer) = oneshot::channel();
        let assignments = assignments.iter().map(|(member, share)| ((*member).to_owned(), Bytes::from_static(share.as_bytes()))).collect();
        self.group.sync(speaks(joined), (None, None), assignments, reply, self.now);
        answer
    }

    fn beat(&mut self, joined: &Joined) -> Result<(), ResponseError> {
        self.group.heartbeat(speaks(joined), self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.group.tick(self.now);
    }

    fn phase(&self) -> Phase {
        self.group.phase()
    }
}

fn speaks(joined: &Joined) -> Speaker<'_> {
    Speaker { member: &joined.member, instance: None, generation: joined.generation }
}

fn new_member() -> Join {
    Join {
        member: String::new(),
        instance: None,
        client_id: "press".into(),
        client_host: "/127.0.0.1".into(),
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::from_static(b"topics"))],
        session_timeout: 10 * SECOND,
        rebalance_timeout: 60 * SECOND,
        named_first: false,
        can_skip: false,
    }
}

fn again(joined: &Joined) -> Join {
    Join { member: joined.member.clone(), ..new_member() }
}

fn static_member(instance: &str) -> Join {
    Join { instance: Some(instance.into()), can_skip: true, ..new_member() }
}

fn now<T: std::fmt::Debug>(mut answer: Receiver<T>) -> T {
    answer.try_recv().expect("the answer is there")
}

fn waits<T>(answer: &mut Receiver<T>) -> bool {
    matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty))
}

fn code(error: ResponseError) -> i16 {
    error.code()
}

/// Two members in a stable generation, the leader first.
fn two() -> (Table, Joined, Joined) {
    let mut table = Table::new();
    let first = now(table.join(new_member()));
    now(table.sync(&first, &[]));
    let mut second = table.join(new_member());
    assert!(waits(&mut second));
    let first = now(table.join(again(&first)));
    let second = now(second);
    let mut share = table.sync(&second, &[]);
    assert!(waits(&mut share), "a follower waits for its leader");
    assert_eq!(now(table.sync(&first, &[(&first.member, "0"), (&second.member, "1")])).assignment, "0");
    assert_eq!(now(share).assignment, "1");
    (table, first, second)
}

#[test]
fn a_new_member_is_told_its_name_and_comes_back_with_it() {
    let mut table = Table::new();
    let told = now(table.join(Join { named_first: true, ..new_member() }));
    assert_eq!((told.error, told.generation), (code(ResponseError::MemberIdRequired), -1));
    assert!(told.member.starts_with("press-"));
    let joined = now(table.join(Join { named_first: true, ..again(&told) }));
    assert_eq!((joined.error, joined.generation, &joined.leader), (0, 1, &told.member));
    assert_eq!(joined.members.len(), 1);
    assert_eq!(table.phase(), Phase::Completing);
    assert_eq!(now(table.sync(&joined, &[(&told.member, "all")])).assignment, "all");
    assert_eq!(table.phase(), Phase::Stable);
    assert_eq!(table.beat(&joined), Ok(()));
}

#[test]
fn a_name_that_nobody_comes_back_with_is_forgotten() {
    let mut table = Table::new();
    let told = now(table.join(Join { named_first: true, ..new_member() }));
    assert!(!table.group.is_vacant());
    table.pass(11 * SECOND);
    assert!(table.group.is_vacant());
    assert_eq!(now(table.join(again(&told))).error, code(ResponseError::UnknownMemberId));
}

#[test]
fn only_the_leader_is_told_who_is_in_the_group() {
    let (_, first, second) = two();
    assert_eq!((first.generation, second.generation), (2, 2));
    assert_eq!(first.leader, second.leader);
    assert_eq!(first.members.iter().map(|m| &m.metadata[..]).collect::<Vec<_>>(), [b"topics", b"topics"]);
    assert!(second.members.is_empty());
}

#[test]
fn who_does_not_rejoin_in_time_is_out() {
    let (mut table, first, second) = two();
    let mut third = table.join(new_member());
    for _ in 0..60 {
        assert_eq!(table.beat(&first), Err(ResponseError::RebalanceInProgress));
        assert!(waits(&mut third));
        table.pass(SECOND);
    }
    let third = now(third);
    assert_eq!((third.generation, &third.leader), (3, &third.member));
    assert_eq!(third.members.len(), 1);
    assert_eq!(table.beat(&second), Err(ResponseError::UnknownMemberId));
}

#[test]
fn a_member_that_is_silent_for_its_session_costs_a_rebalance() {
    let (mut table, first, second) = two();
    table.pass(6 * SECOND);
    assert_eq!(table.beat(&first), Ok(()));
    table.pass(6 * SECOND);
    assert_eq!(table.beat(&first), Err(ResponseError::RebalanceInProgress));
    assert_eq!(table.beat(&second), Err(ResponseError::UnknownMemberId));
    assert_eq!(now(table.join(again(&first))).generation, 3);
}

#[test]
fn who_fetches_no_assignment_is_out() {
    let mut table = Table::new();
    let mut first = now(table.join(new_member()));
    now(table.sync(&first, &[]));
    let second = table.join(new_member());
    first = now(table.join(again(&first)));
    let second = now(second);
    now(table.sync(&first, &[]));
    for _ in 0..61 {
        let _ = (table.beat(&first), table.beat(&second));
        table.pass(SECOND);
    }
    assert_eq!(table.beat(&second), Err(ResponseError::UnknownMemberId));
    assert_eq!(now(table.join(again(&first))).members.len(), 1);
}

#[test]
fn the_last_one_out_leaves_an_empty_group_of_a_higher_generation() {
    let (mut table, first, second) = two();
    assert_eq!(table.group.leave(&first.member, None, table.now), Ok(()));
    assert_eq!(table.group.leave(&first.member, None, table.now), Err(ResponseError::UnknownMemberId));
    assert_eq!(table.phase(), Phase::Preparing);
    assert_eq!(table.group.leave(&second.member, None, table.now), Ok(()));
    assert_eq!((table.phase(), table.group.generation()), (Phase::Empty, 3));
    assert_eq!(table.group.deadline(), None);
    assert!(table.group.is_vacant());
}

#[test]
fn an_old_generation_is_refused_everywhere() {
    let (mut table, first, _) = two();
    let old = Joined { generation: 1, ..first.clone() };
    assert_eq!(table.beat(&old), Err(ResponseError::IllegalGeneration));
    assert_eq!(now(table.sync(&old, &[])).error, code(ResponseError::IllegalGeneration));
    for in_transaction in [false, true] {
        assert_eq!(table.group.may_commit(speaks(&old), in_transaction, table.now), Err(ResponseError::IllegalGeneration));
        assert_eq!(table.group.may_commit(speaks(&first), in_transaction, table.now), Ok(()));
    }
}

#[test]
fn an_outsider_commits_only_while_nobody_is_in() {
    let outsider = Speaker { member: "", instance: None, generation: -1 };
    let (mut table, first, second) = two();
    assert_eq!(table.group.may_commit(outsider, false, table.now), Err(ResponseError::UnknownMemberId));
    for member in [first, second] {
        table.group.leave(&member.member, None, table.now).unwrap();
    }
    assert_eq!(table.group.may_commit(outsider, false, table.now), Ok(()));
}

#[test]
fn nothing_is_committed_between_join_and_assignment() {
    let mut table = Table::new();
    let first = now(table.join(new_member()));
    assert_eq!(table.group.may_commit(speaks(&first), false, table.now), Err(ResponseError::RebalanceInProgress));
    now(table.sync(&first, &[]));
    assert_eq!(table.group.may_commit(speaks(&first), false, table.now), Ok(()));
}

#[test]
fn a_stranger_to_the_groups_protocols_is_refused() {
    let (mut table, ..) = two();
    let other = |protocol_type: &str, protocol: &str| Join {
        protocol_type: protocol_type.into(),
        protocols: vec![(protocol.into(), Bytes::new())],
        ..new_member()
    };
    let inconsistent = code(ResponseError::InconsistentGroupProtocol);
    assert_eq!(now(table.join(other("connect", "range"))).error, inconsistent);
    assert_eq!(now(table.join(other("consumer", "sticky"))).error, inconsistent);
    assert_eq!(now(Table::new().join(Join { protocols: Vec::new(), ..new_member() })).error, inconsistent);
    assert_eq!(table.phase(), Phase::Stable);
}

#[test]
fn the_protocol_is_the_one_that_all_know_and_most_prefer() {
    let knows = |protocols: &[&'static str]| Join {
        protocols: protocols.iter().map(|name| ((*name).to_owned(), Bytes::from_static(name.as_bytes()))).collect(),
        ..new_member()
    };
    let mut table = Table::new();
    let first = now(table.join(knows(&["sticky", "range", "robin"])));
    let second = table.join(knows(&["robin", "range"]));
    let third = table.join(knows(&["range", "robin"]));
    let first = now(table.join(Join { member: first.member, ..knows(&["sticky", "range", "robin"]) }));
    assert_eq!(first.protocol.as_deref(), Some("range"));
    assert!(first.members.iter().all(|member| member.metadata == "range"));
    assert_eq!((now(second).generation, now(third).generation), (2, 2));
}

#[test]
fn a_static_member_that_restarts_disturbs_nobody_and_fences_what_it_was() {
    let mut table = Table::new();
    let first = now(table.join(static_member("one")));
    now(table.sync(&first, &[]));
    let second = table.join(static_member("two"));
    let first = now(table.join(Join { member: first.member.clone(), ..static_member("one") }));
    let second = now(second);
    now(table.sync(&first, &[(&first.member, "0"), (&second.member, "1")]));
    now(table.sync(&second, &[]));

    let back = now(table.join(static_member("two")));
    assert_eq!((back.error, back.generation, back.skip_assignment), (0, 2, false));
    assert_ne!(back.member, second.member);
    assert_eq!(now(table.sync(&back, &[])).assignment, "1");
    assert_eq!((table.phase(), table.beat(&first)), (Phase::Stable, Ok(())));
    let old = Speaker { instance: Some("two"), ..speaks(&second) };
    assert_eq!(table.group.heartbeat(old, table.now), Err(ResponseError::FencedInstanceId));
    assert_eq!(
        now(table.join(Join { member: second.member.clone(), ..static_member("two") })).error,
        code(ResponseError::FencedInstanceId)
    );

    // The leader is told to skip, or, if it can't, that another leads.
    let leads = now(table.join(static_member("one")));
    assert!(leads.skip_assignment && leads.leader == leads.member && leads.members.len() == 2);
    let led = now(table.join(Join { can_skip: false, ..static_member("one") }));
    assert!(!led.skip_assignment && led.leader == leads.member && led.members.is_empty());
    assert_eq!(now(table.sync(&led, &[])).assignment, "0");
}

#[test]
fn a_static_member_that_is_away_keeps_its_place_for_its_session() {
    let mut table = Table::new();
    let first = now(table.join(static_member("one")));
    now(table.sync(&first, &[]));
    table.pass(9 * SECOND);
    assert!(!table.group.is_vacant());
    table.pass(2 * SECOND);
    assert!(table.group.is_vacant());
}

#[test]
fn an_administrator_removes_a_static_member_by_its_instance() {
    let mut table = Table::new();
    let first = now(table.join(static_member("one")));
    now(table.sync(&first, &[]));
    assert_eq!(table.group.leave("", Some("two"), table.now), Err(ResponseError::UnknownMemberId));
    assert_eq!(table.group.leave("somebody", Some("one"), table.now), Err(ResponseError::FencedInstanceId));
    assert_eq!(table.group.leave("", Some("one"), table.now), Ok(()));
    assert_eq!(table.phase(), Phase::Empty);
}

#[test]
fn members_go_on_after_a_restart_of_the_broker() {
    let (mut table, first, second) = two();
    assert!(table.group.take_dirty());
    table.group = Group::restore(table.group.roster(), table.now);
    assert_eq!((table.beat(&first), table.beat(&second)), (Ok(()), Ok(())));
    assert_eq!(table.group.may_commit(speaks(&first), false, table.now), Ok(()));
    assert_eq!(now(table.sync(&second, &[])).assignment, "1");
    table.pass(11 * SECOND);
    assert!(table.group.is_vacant(), "who is not heard of any more is out");
}

#[test]
fn a_lost_answer_is_given_again() {
    let mut table = Table::new();
    let first = now(table.join(new_member()));
    let repeated = now(table.join(again(&first)));
    assert_eq!(repeated, first);
    now(table.sync(&first, &[(&first.member, "0")]));
    assert_eq!(now(table.sync(&first, &[])).assignment, "0");
}

#[test]
fn a_group_takes_no_more_members_than_it_may() {
    let mut table = Table::new();
    for _ in 0..MEMBERS_MAX {
        now(table.join(Join { named_first: true, ..new_member() }));
    }
    assert_eq!(now(table.join(new_member())).error, code(ResponseError::GroupMaxSizeReached));
}

#[derive(Clone, Debug)]
enum Step {
    Join { who: usize, instance: Option<u8>, protocol: u8, named_first: bool },
    Sync { who: usize },
    Beat { who: usize },
    Leave { who: usize },
    Pass { ms: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..6_usize;
    prop_oneof![
        4 => (who.clone(), proptest::option::weighted(0.3, 0..2_u8), 0..3_u8, any::<bool>())
            .prop_map(|(who, instance, protocol, named_first)| Step::Join { who, instance, protocol, named_first }),
        4 => who.clone().prop_map(|who| Step::Sync { who }),
        2 => who.clone().prop_map(|who| Step::Beat { who }),
        1 => who.prop_map(|who| Step::Leave { who }),
        2 => (0..40_000_u64).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Restart),
    ]
}

/// What one client knows of itself, and the answers it waits for.
#[derive(Default)]
struct Seat {
    instance: Option<u8>,
    told: Option<Joined>,
    joins: Vec<Receiver<Joined>>,
    syncs: Vec<Receiver<Synced>>,
}

impl Seat {
    fn hear(&mut self) {
        self.joins.retain_mut(|answer| match answer.try_recv() {
            Ok(joined) => {
                self.told = Some(joined);
                false
            }
            Err(oneshot::error::TryRecvError::Closed) => panic!("a join was forgotten"),
            Err(oneshot::error::TryRecvError::Empty) => true,
        });
        self.syncs.retain_mut(|answer| match answer.try_recv() {
            Ok(_) => false,
            Err(oneshot::error::TryRecvError::Closed) => panic!("a sync was forgotten"),
            Err(oneshot::error::TryRecvError::Empty) => true,
        });
    }
}

fn holds_together(group: &Group) {
    for (instance, id) in &group.statics {
        assert_eq!(group.members[id].instance.as_ref(), Some(instance));
    }
    assert_eq!(group.statics.len(), group.members.values().filter(|member| member.instance.is_some()).count());
    // Somebody who was told its name is waited for, even if all others have left.
    assert_eq!(group.phase == Phase::Empty || !group.named.is_empty(), group.members.is_empty() || !group.named.is_empty());
    if matches!(group.phase, Phase::Completing | Phase::Stable) {
        assert!(group.leader.as_ref().is_some_and(|leader| group.members.contains_key(leader)), "somebody leads");
        assert!(group.protocol.is_some() && group.all_support(group.protocol.as_ref().unwrap(), None));
        assert!(group.members.values().all(|member| member.joins.is_none()));
    }
    if group.phase != Phase::Completing {
        assert!(group.members.values().all(|member| member.syncs.is_none()));
    }
    assert_eq!(group.deadline().is_none(), group.is_vacant(), "a member can always be given up");
}

proptest! {
    #[test]
    fn whatever_members_do_the_group_holds_together_and_everybody_is_answered(steps in proptest::collection::vec(step(), 1..120)) {
        let mut table = Table::new();
        let mut seats: Vec<Seat> = (0..6).map(|_| Seat::default()).collect();
        let mut generation = 0;
        for step in steps {
            match step {
                Step::Join { who, instance, protocol, named_first } => {
                    let seat = &mut seats[who];
                    if seat.told.is_none() {
                        seat.instance = instance;
                    }
                    // Members 0 and 1 also know what the others may not.
                    let names = [vec!["range"], vec!["range", "robin"], vec!["robin"]];
                    let join = Join {
                        member: seat.told.as_ref().map(|told| told.member.clone()).unwrap_or_default(),
                        instance: seat.instance.map(|instance| instance.to_string()),
                        protocols: names[usize::from(protocol)].iter().map(|name| ((*name).to_owned(), Bytes::new())).collect(),
                        named_first,
                        ..new_member()
                    };
                    let answer = table.join(join);
                    seats[who].joins.push(answer);
                }
                Step::Sync { who } => {
                    if let Some(told) = seats[who].told.clone() {
                        let answer = table.sync(&told, &[]);
                        seats[who].syncs.push(answer);
                    }
                }
                Step::Beat { who } => {
                    if let Some(told) = seats[who].told.clone() {
                        let _ = table.beat(&told);
                    }
                }
                Step::Leave { who } => {
                    if let Some(told) = seats[who].told.take() {
                        let _ = table.group.leave(&told.member, None, table.now);
                    }
                }
                Step::Pass { ms } => table.pass(Duration::from_millis(ms)),
                Step::Restart => {
                    if table.phase() == Phase::Stable {
                        table.group = Group::restore(table.group.roster(), table.now);
                    }
                }
            }
            seats.iter_mut().for_each(Seat::hear);
            holds_together(&table.group);
            prop_assert!(table.group.generation() >= generation, "generations grow");
            generation = table.group.generation();
        }
        // Nobody says anything any more: the group empties by itself, and nobody is left waiting.
        for _ in 0..10_000 {
            let Some(deadline) = table.group.deadline() else { break };
            table.now = table.now.max(deadline);
            table.group.tick(table.now);
            seats.iter_mut().for_each(Seat::hear);
            holds_together(&table.group);
        }
        prop_assert!(table.group.is_vacant());
        prop_assert!(seats.iter().all(|seat| seat.joins.is_empty() && seat.syncs.is_empty()));
    }
}
