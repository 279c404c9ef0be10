//! A run: everything is started, the plan is carried out, everything is restored, and the ledger is drawn up.

use crate::{
    attackers, backend, counters,
    files::{self, Change},
    journal::{At, Journal, Observations},
    ledger::Ledger,
    outages::{self, Outage},
    plan::{Act, Event, PLAYERS, Plan},
    player::{self, Leave, Phase},
    recorder::RecordingProxy,
};
use gateway_tests::{Gateway, PATIENCE, Redis};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{self, Instant},
};

/// The players' users. Hostile plugins deliver to user 1, who is not among them.
const USERS: std::ops::RangeFrom<i32> = 101..;
/// How long everything works undisturbed, before the first event and after the last.
const UNDISTURBED_TIME: Duration = Duration::from_secs(3);
/// How long everything may take to work again after the last event.
const RECOVERY: Duration = Duration::from_secs(60);
/// How long the gateway may take to stop.
const STOP: Duration = PATIENCE;

/// The results of a run.
pub(crate) struct Outcome {
    pub(crate) book: Observations,
    pub(crate) ledger: Ledger,
    /// The time after the plan at which everything worked again.
    pub(crate) recovered: At,
    /// The faults of the gateway itself, such as panics.
    pub(crate) faults: Vec<String>,
}

/// All parts of a run.
struct TestRun {
    journal: Journal,
    gateway: Arc<Gateway>,
    redis: Redis,
    tap: RecordingProxy,
    phase: watch::Sender<Phase>,
    orders: Vec<mpsc::Sender<Leave>>,
    players: JoinSet<()>,
    /// Scrapes the gateway's counters from its start on. The task is aborted when this set is dropped.
    _counting: JoinSet<()>,
}

/// Carries out a plan.
pub(crate) async fn run(plan: &Plan) -> Outcome {
    let mut stage = TestRun::start().await;
    let journal = stage.journal.clone();
    time::sleep(UNDISTURBED_TIME).await;
    journal.event("the plan begins");
    stage.play(plan).await;
    journal.event("the plan is over, and everything is put right");
    files::restore(&stage.gateway, stage.tap.port);
    let mut faults = Vec::new();
    if let Err(fault) = stage.recover().await {
        faults.push(fault);
    }
    let recovered = journal.now();
    journal.event("everything works again");
    time::sleep(UNDISTURBED_TIME).await;
    stage.phase.send_replace(Phase::Listen);
    settle(&journal).await;
    stage.finish(recovered, faults).await
}

/// Waits until every message is accounted for, or until the time is over.
async fn settle(journal: &Journal) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        time::sleep(Duration::from_millis(500)).await;
        let book = journal.book().clone();
        if Ledger::of(&book).unknown().next().is_none() {
            return;
        }
    }
}

impl TestRun {
    async fn start() -> Self {
        let journal = Journal::new();
        let redis = Redis::start().await;
        let tap = RecordingProxy::start(redis.port, journal.clone()).await;
        let gateway = Arc::new(Gateway::start(files::setup(tap.port, "")).await);
        let mut counting = JoinSet::new();
        counting.spawn(counters::follow(gateway.admin, journal.clone()));
        gateway.metric_is("gateway_bus_connected", 1.0).await;
        let phase = watch::Sender::new(Phase::Play);
        let users: Vec<i32> = USERS.take(PLAYERS).collect();
        let (mut players, mut orders) = (JoinSet::new(), Vec::new());
        players.spawn(backend::serve(redis.port, users.clone(), journal.clone(), phase.subscribe()));
        redis.subscribers_are(crate::messages::REQUESTS, 1).await;
        for user in users {
            let (order, ordered) = mpsc::channel(8);
            orders.push(order);
            players.spawn(player::play(gateway.address, user, journal.clone(), phase.subscribe(), ordered));
        }
        Self { journal, gateway, redis, tap, phase, orders, players, _counting: counting }
    }

    /// Carries out all events. Outages, changes and attacks run concurrently.
    async fn play(&mut self, plan: &Plan) {
        let began = Instant::now();
        let (outage, outages) = mpsc::unbounded_channel();
        let (change, changes) = mpsc::unbounded_channel();
        let scheduling = schedule(plan, began, &self.journal, &self.gateway, &self.orders, (outage, change));
        tokio::join!(
            scheduling,
            happen_to_redis(outages, &mut self.redis, &self.tap, &self.journal),
            happen_to_files(changes, &self.gateway, self.tap.port, &self.journal),
        );
    }

    /// Waits until the gateway is ready and messages arrive again.
    async fn recover(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + RECOVERY;
        loop {
            let ready = time::timeout(Duration::from_secs(5), self.gateway.get("/readyz")).await;
            let working = matches!(ready, Ok((200, _))) && self.works().await;
            if working {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "the gateway does not work again {RECOVERY:?} after the plan: /readyz says {ready:?}"
                ));
            }
            time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Returns whether each player received the reply to a heartbeat, a response and a broadcast that were all sent
    /// within the last second.
    async fn works(&self) -> bool {
        let asked = self.journal.now();
        time::sleep(Duration::from_secs(1)).await;
        let book = self.journal.book().clone();
        let arrived = |user: i32| {
            use crate::journal::Kind::{Broadcast, Heartbeat, Response};
            [Heartbeat, Response, Broadcast].into_iter().all(|kind| {
                let mut later = book.messages.values().filter(|message| message.sent > asked);
                later.any(|message| (message.kind, message.user) == (kind, user) && !message.arrivals.is_empty())
            })
        };
        USERS.take(PLAYERS).all(arrived)
    }

    async fn finish(self, recovered: At, mut faults: Vec<String>) -> Outcome {
        self.phase.send_replace(Phase::Done);
        self.players.join_all().await;
        let book = self.journal.book().clone();
        let log = self.gateway.log_lines();
        // A panic of the gateway is the only line that is not JSON. The gateway logs the output of plugins as JSON.
        let bare = log.iter().filter_map(|line| line.as_str());
        faults.extend(bare.filter(|line| line.contains("panicked at")).map(str::to_owned));
        let gateway = Arc::into_inner(self.gateway).expect("no task uses the gateway any more");
        faults.extend(stop(gateway).await);
        Outcome { ledger: Ledger::of(&book), book, recovered, faults }
    }
}

/// Stops the gateway as an operator does. Returns what was wrong with its end, if anything was.
async fn stop(mut gateway: Gateway) -> Option<String> {
    if let Some(status) = gateway.exit_within(Duration::from_millis(100)).await {
        let last: Vec<_> = gateway.log_lines().iter().rev().take(10).map(ToString::to_string).collect();
        return Some(format!("the gateway ended: {status}; its last lines: {last:#?}"));
    }
    gateway.signal("TERM").await;
    match gateway.exit_within(STOP).await {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("the gateway ended with {status} after SIGTERM")),
        None => Some(format!("the gateway did not stop within {STOP:?}")),
    }
}

async fn schedule(
    plan: &Plan,
    began: Instant,
    journal: &Journal,
    gateway: &Arc<Gateway>,
    orders: &[mpsc::Sender<Leave>],
    (outages, changes): (mpsc::UnboundedSender<Outage>, mpsc::UnboundedSender<Change>),
) {
    let mut attacks = JoinSet::new();
    for Event { at, act } in &plan.events {
        time::sleep_until(began + *at).await;
        match act.clone() {
            Act::Outage(outage) => drop(outages.send(outage)),
            Act::Change(change) => drop(changes.send(change)),
            Act::Leave(player, leave) => {
                journal.event(format!("player {} leaves: {leave:?}", player + 1));
                // An error means that the player has not yet carried out earlier orders.
                let _ = orders[player].try_send(leave);
            }
            Act::Attack(attack) => {
                journal.event(format!("{attack:?}"));
                let address = gateway.address;
                attacks.spawn(async move { attackers::attack(address, &attack).await });
            }
        }
    }
    attacks.join_all().await;
}

async fn happen_to_redis(
    mut outages: mpsc::UnboundedReceiver<Outage>,
    redis: &mut Redis,
    tap: &RecordingProxy,
    journal: &Journal,
) {
    while let Some(outage) = outages.recv().await {
        journal.event(format!("Redis: {outage:?}"));
        outages::apply(outage, redis, tap, journal).await;
        journal.event("Redis is well");
    }
}

async fn happen_to_files(
    mut changes: mpsc::UnboundedReceiver<Change>,
    gateway: &Gateway,
    redis: u16,
    journal: &Journal,
) {
    while let Some(change) = changes.recv().await {
        journal.event(format!("files: {change:?}"));
        files::apply(change, gateway, redis).await;
    }
}
