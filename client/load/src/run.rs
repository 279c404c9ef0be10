//! One run of messages: connects everything, lets traffic flow, and takes readings at both ends of the measured time.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use crate::bus::{self, Publisher, Subscriber};
use crate::client::{Client, Script};
use crate::clock::Period;
use crate::pace;
use crate::plan::{Flow, Plan, Way};
use crate::process::Process;
use crate::session::{self, Dialer, Session};
use crate::tasks::Tasks;
use crate::traffic::Traffic;

/// The time that a gateway may take to publish the requests that bind all sessions.
const BINDING_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of successive polls without an arrival after which missing messages count as lost. They take 3 seconds,
/// or longer if this program is stopped meanwhile.
const LOST_AFTER: u32 = 300;

/// The time for which messages that arrive twice are awaited once everything has arrived.
const LINGER: Duration = Duration::from_millis(100);

/// The time between two polls of a condition that no event announces.
const POLL: Duration = Duration::from_millis(10);

/// The outcome of a run: the traffic with its tally, and the readings at both ends of the measured time.
pub(crate) struct Run {
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) begin: Reading,
    pub(crate) end: Reading,
}

/// The counters at one time.
pub(crate) struct Reading {
    /// The time in nanoseconds of the traffic's clock.
    pub(crate) at: u64,
    pub(crate) arrived: u64,
    pub(crate) server_cpu: Option<Duration>,
    pub(crate) own_cpu: Option<Duration>,
}

/// Runs the load. Fails if it could not be run to its end. Lost messages and the like are no failure here.
pub(crate) async fn run(plan: &Plan, flow: &Flow) -> anyhow::Result<Run> {
    let Flow { way, pace, payload } = flow;
    let mut scripts = scripts(way, plan.clients, *payload)?.into_iter();
    let (subscriber, publisher) = connect_bus(way).await?;
    let dialer = Dialer::new(plan.target.clone()).await?;
    let (mut clients, mut readers) = (Vec::new(), Vec::new());
    session::open_all(&dialer, plan.clients, |session, _| {
        // There are as many scripts as sessions, so there always is one.
        if let Some(script) = scripts.next() {
            clients.push(Client::new(script, session.outlet, pace.window()));
            readers.push(session.reader);
        }
    })
    .await?;
    let sender = if way.relay().is_some() { Some(dialer.open().await?) } else { None };
    let (sender, relay) = sender.map(|Session { outlet, reader }| (outlet, reader)).unzip();
    let (outlet, publisher) = publisher.map(|Publisher { outlet, reader }| (outlet, reader)).unzip();
    let outlet = outlet.or(sender);
    let traffic = Arc::new(Traffic::new(way.clone(), *pace, clients, outlet)?);
    let mut tasks = Tasks::default();
    tasks.listen(&traffic, readers);
    publisher.into_iter().for_each(|reader| tasks.publish(&traffic, reader));
    relay.into_iter().for_each(|reader| tasks.relay(&traffic, reader));
    subscriber.into_iter().for_each(|subscriber| tasks.subscribe(&traffic, subscriber));
    let (begin, end) = tokio::select! {
        outcome = course(plan, &traffic) => outcome?,
        error = tasks.failure() => return Err(error),
    };
    tasks.close(&traffic).await;
    Ok(Run { traffic, begin, end })
}

/// Builds the script of each client. The last user has the longest id, so that script is built first: it fails if the
/// payload is too short for any.
fn scripts(way: &Way, clients: usize, payload: usize) -> anyhow::Result<Vec<Script>> {
    // The command line allows at most a million.
    let last = clients as i32;
    Script::new(way, last, payload)?;
    (1..=last).map(|user_id| Script::new(way, user_id, payload)).collect()
}

async fn connect_bus(way: &Way) -> anyhow::Result<(Option<Subscriber>, Option<Publisher>)> {
    let Some(bus) = way.bus() else { return Ok((None, None)) };
    let subscriber = bus::subscribe(&bus.redis, &bus::requests_of(&bus.game)).await?;
    let publishes = way.has_binding() || matches!(way, Way::Loop(_));
    let publisher = if publishes { Some(bus::publisher(&bus.redis).await?) } else { None };
    Ok((Some(subscriber), publisher))
}

/// Binds the sessions if need be, lets traffic flow, and waits for the messages under way. Everything is connected
/// already.
async fn course(plan: &Plan, traffic: &Arc<Traffic>) -> anyhow::Result<(Reading, Reading)> {
    if traffic.way.has_binding() {
        bind(traffic).await?;
    }
    let period = traffic.begin(plan.warmup, plan.duration);
    let measuring = measure(plan, traffic, period);
    let readings = if let Some(schedule) = traffic.schedule() {
        let (paced, period) = (Arc::clone(traffic), period.clone());
        let pacing = spawn_blocking(move || pace::keep(&paced, schedule, &period));
        let (readings, ()) = tokio::try_join!(measuring, async { pacing.await? })?;
        readings
    } else {
        let mut out = Vec::new();
        for index in 0..traffic.clients.len() {
            traffic.send_on(index, traffic.clock.now(), &mut out)?;
        }
        measuring.await?
    };
    traffic.stop();
    settle(traffic).await;
    Ok(readings)
}

/// Binds each session to its user with a request, or lets it join the others. Before that, the gateway delivers nothing to
/// the session.
async fn bind(traffic: &Traffic) -> anyhow::Result<()> {
    let mut request = Vec::new();
    for (number, client) in (0..).zip(&traffic.clients) {
        if let Some(binding) = &client.script.binding {
            request.clear();
            binding.append(number, &mut request);
            client.outlet.send(&request)?;
        }
    }
    let deadline = Instant::now() + BINDING_TIMEOUT;
    while let Some(index) = traffic.clients.iter().position(|client| !client.bound.load(Ordering::Relaxed)) {
        if let Some(refusal) = &traffic.tally().refusal {
            let request = if traffic.way.relay().is_some() { "--join" } else { "a ChatRequest" };
            bail!("the gateway refuses {request}: {refusal}");
        }
        if Instant::now() > deadline {
            let user = index + 1;
            match traffic.way.relay() {
                Some(relay) => bail!("no reply on route {} to what user {user} sends to join", relay.route),
                None => bail!("the request of user {user} has not come to this Redis; is it the gateway's?"),
            }
        }
        sleep(POLL).await;
    }
    Ok(())
}

async fn measure(plan: &Plan, traffic: &Traffic, period: &Period) -> anyhow::Result<(Reading, Reading)> {
    sleep_until(traffic.clock.instant(period.measured.start).into()).await;
    let begin = Reading::take(plan, traffic)?;
    sleep_until(traffic.clock.instant(period.measured.end).into()).await;
    Ok((begin, Reading::take(plan, traffic)?))
}

/// Waits for the messages under way, as long as messages arrive.
async fn settle(traffic: &Traffic) {
    let (mut arrived, mut polls) = (0, 0);
    while traffic.missing() > 0 && polls < LOST_AFTER {
        let before = mem::replace(&mut arrived, traffic.tally().arrived);
        polls = if arrived == before { polls + 1 } else { 0 };
        sleep(POLL).await;
    }
    sleep(LINGER).await;
}

impl Reading {
    fn take(plan: &Plan, traffic: &Traffic) -> anyhow::Result<Self> {
        let server_cpu = plan.server.map(Process::cpu).transpose()?;
        let own_cpu = Process::This.cpu().ok();
        Ok(Self { at: traffic.clock.now(), arrived: traffic.tally().arrived, server_cpu, own_cpu })
    }
}
