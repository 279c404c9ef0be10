//! One run of messages: connects everything, lets traffic flow, and reads the meters at both ends of the measured time.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::bus::{self, Publisher, Subscriber};
use super::client::{Client, Script};
use super::clock::Period;
use super::pace;
use super::plan::{Flow, Plan, Way};
use super::process::Process;
use super::session::{self, Dialer};
use super::tasks::Tasks;
use super::traffic::Traffic;

/// How long a gateway may take to publish the requests that bind all sessions.
const BINDING_TIMEOUT: Duration = Duration::from_secs(10);

/// What has not arrived after nothing has for so many glances is lost: at least 3 seconds, in which this program was not stopped.
const LOST_AFTER: u32 = 300;

/// Once everything has arrived, what still comes within this time is doubled.
const LINGER: Duration = Duration::from_millis(100);

/// How often is looked at what nothing tells of.
const GLANCE: Duration = Duration::from_millis(10);

/// What a run came to: the traffic with its tally, and the meters at both ends of the measured time.
pub(super) struct Run {
    pub(super) traffic: Arc<Traffic>,
    pub(super) begin: Reading,
    pub(super) end: Reading,
}

/// The meters at one time.
pub(super) struct Reading {
    /// In nanoseconds of the traffic's clock.
    pub(super) at: u64,
    pub(super) arrived: u64,
    pub(super) server_cpu: Option<Duration>,
    pub(super) own_cpu: Option<Duration>,
}

/// Runs the load. An error if it could not be run to its end; whether its messages did well is another matter.
pub(super) async fn run(plan: &Plan, flow: &Flow) -> anyhow::Result<Run> {
    let Flow { way, pace, payload } = flow;
    let mut scripts = scripts(way, plan.clients, *payload)?.into_iter();
    let (subscriber, publisher) = connect_bus(way).await?;
    let dialer = Dialer::new(plan.target.clone()).await?;
    let (mut clients, mut readers) = (Vec::new(), Vec::new());
    session::open_all(&dialer, plan.clients, |session, _| {
        // There are as many scripts as sessions.
        if let Some(script) = scripts.next() {
            clients.push(Client::new(script, session.outlet, pace.window()));
            readers.push(session.reader);
        }
    })
    .await?;
    let (outlet, publisher) = publisher.map(|Publisher { outlet, reader }| (outlet, reader)).unzip();
    let traffic = Arc::new(Traffic::new(way.clone(), *pace, clients, outlet));
    let mut tasks = Tasks::default();
    tasks.listen(&traffic, readers);
    publisher.into_iter().for_each(|reader| tasks.publish(&traffic, reader));
    subscriber.into_iter().for_each(|subscriber| tasks.subscribe(&traffic, subscriber));
    let (begin, end) = tokio::select! {
        outcome = course(plan, &traffic) => outcome?,
        error = tasks.failure() => return Err(error),
    };
    tasks.close(&traffic).await;
    Ok(Run { traffic, begin, end })
}

/// The last user's id is the longest, so it tells whether the payload is long enough.
fn scripts(way: &Way, clients: usize, payload: usize) -> anyhow::Result<Vec<Script>> {
    // No more than the command line allows: a million.
    let last = clients as i32;
    Script::new(way, last, payload)?;
    (1..=last).map(|user_id| Script::new(way, user_id, payload)).collect()
}

async fn connect_bus(way: &Way) -> anyhow::Result<(Option<Subscriber>, Option<Publisher>)> {
    let Some(bus) = way.bus() else { return Ok((None, None)) };
    let subscriber = bus::subscribe(&bus.redis, &bus::requests_of(&bus.game)).await?;
    let publishes = matches!(way, Way::Deliver(_) | Way::Loop(_));
    let publisher = if publishes { Some(bus::publisher(&bus.redis).await?) } else { None };
    Ok((Some(subscriber), publisher))
}

/// Everything is connected: binds the sessions if need be, then lets traffic flow.
async fn course(plan: &Plan, traffic: &Arc<Traffic>) -> anyhow::Result<(Reading, Reading)> {
    if matches!(traffic.way, Way::Deliver(_)) {
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

/// A session gets what is for its user once the gateway knows who that is, from a request.
async fn bind(traffic: &Traffic) -> anyhow::Result<()> {
    let mut request = Vec::new();
    for client in &traffic.clients {
        if let Some(binding) = &client.script.binding {
            request.clear();
            binding.append(0, &mut request);
            client.outlet.send(&request)?;
        }
    }
    let deadline = Instant::now() + BINDING_TIMEOUT;
    while let Some(index) = traffic.clients.iter().position(|client| !client.bound.load(Ordering::Relaxed)) {
        if let Some(refusal) = &traffic.tally().refusal {
            bail!("the gateway refuses a ChatRequest: {refusal}");
        }
        if Instant::now() > deadline {
            bail!("the request of user {} has not come to this Redis; is it the gateway's?", index + 1);
        }
        sleep(GLANCE).await;
    }
    Ok(())
}

async fn measure(plan: &Plan, traffic: &Traffic, period: &Period) -> anyhow::Result<(Reading, Reading)> {
    sleep_until(traffic.clock.instant(period.measured.start).into()).await;
    let begin = Reading::take(plan, traffic)?;
    sleep_until(traffic.clock.instant(period.measured.end).into()).await;
    Ok((begin, Reading::take(plan, traffic)?))
}

/// Waits for what is under way, as long as anything comes.
async fn settle(traffic: &Traffic) {
    let (mut arrived, mut glances) = (0, 0);
    while traffic.missing() > 0 && glances < LOST_AFTER {
        let before = mem::replace(&mut arrived, traffic.tally().arrived);
        glances = if arrived == before { glances + 1 } else { 0 };
        sleep(GLANCE).await;
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
