//! A plugin that does what the tests ask for. A packet, a bus message, the query of a connection and entries of the
//! state contain commands, which [`script`] documents.
//!
//! - A packet is answered with the output of the commands in its payload.
//! - A bus message is a list of commands, unless the settings have commands for all messages.
//! - The parameters of a connection's query are described at [`Probe::obey`].
//! - The end of a session runs the commands of the entry `on-disconnect`, and the timer 7 those of `on-wake/7`.
//! - A client that is away or back runs the commands of the entries `on-away` and `on-back`.

pub mod identity;
mod script;

use gateway_plugin_sdk::{
    Absence, Action, Admission, Arrival, Connection, Denial, Departure, Hearing, Metric, Packet, Plugin, Policy,
    Presence, Rejection, SessionId, Sessions, Settings, Target, Timers, state,
};
use identity::Identity;
use script::Script;
use serde::Deserialize;

/// The settings of the plugin.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The topics that the plugin subscribes to.
    #[serde(default)]
    topics: Vec<String>,
    /// The query that the plugin obeys at every connect, instead of the client's own.
    on_connect: Option<String>,
    /// The commands for every bus message, instead of those in the message.
    on_message: Option<String>,
}

struct Probe {
    name: String,
    route: u8,
    config: Config,
}

impl Plugin for Probe {
    const NAME: &str = "probe";
    const ROUTES: &[u8] = &[0x70];
    const METRICS: &[Metric] = &[
        Metric::counter("events", "Events that a test has counted."),
        Metric::gauge("level", "A number that a test has set."),
        Metric::histogram("delay", "Numbers that a test has observed."),
    ];
    type Config = Config;

    fn configure(settings: Settings<Config>) -> Result<Self, String> {
        let route = settings.routes.first().copied().unwrap_or_default();
        Ok(Self { name: Identity::read().name, route, config: settings.config })
    }

    fn topics(&self) -> Vec<String> {
        self.config.topics.clone()
    }
}

impl Policy for Probe {
    fn on_packet(&mut self, packet: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let commands = String::from_utf8_lossy(payload);
        let mut script = Script::new(self.route, Some(packet.session));
        script.run(&commands, &packet_variables(packet)).map_err(Rejection::malformed)?;
        let Script { mut actions, output, .. } = script;
        // A client that has its reply knows that the actions before it are carried out. A push, a timer or the end of
        // the session comes after the reply, so that the reply is the next packet.
        let is_later = |action: &Action| matches!(action, Action::Deliver(_) | Action::Wake(_) | Action::End(_));
        let position = actions.iter().position(is_later).unwrap_or(actions.len());
        actions.insert(position, Action::reply(output.join(" ")));
        Ok(actions)
    }
}

fn packet_variables(packet: &Packet) -> [(&'static str, String); 4] {
    let user = packet.user.map_or_else(|| "none".to_owned(), |user| user.to_string());
    [
        ("$session", packet.session.to_string()),
        ("$user", user),
        ("$tag", packet.tag.to_string()),
        ("$now", packet.now.to_string()),
    ]
}

impl Hearing for Probe {
    fn on_message(&mut self, topic: &str, payload: &[u8], now: u64) -> Result<Vec<Action>, Rejection> {
        let message = String::from_utf8_lossy(payload);
        let commands = self.config.on_message.as_deref().unwrap_or(&message);
        let mut script = Script::new(self.route, None);
        let variables = [("$topic", topic.to_owned()), ("$now", now.to_string())];
        script.run(commands, &variables).map_err(Rejection::malformed)?;
        Ok(script.actions)
    }
}

impl Sessions for Probe {
    fn on_connect(&mut self, connection: &Connection) -> Result<Admission, Denial> {
        let query = self.config.on_connect.as_deref().unwrap_or(&connection.query);
        let mut admission = Admission::default();
        for parameter in query.split('&') {
            // `other.tag=3` is for the plugin with the name `other`, and `tag=3` for the one with the name `probe`.
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (name, key) = key.split_once('.').unwrap_or((Self::NAME, key));
            if name == self.name {
                self.obey(key, &value.replace('+', " "), connection, &mut admission)?;
            }
        }
        Ok(admission)
    }

    fn on_disconnect(&mut self, departure: &Departure) -> Vec<Action> {
        let Departure { session, user, tag, now, .. } = *departure;
        self.run_session("on-disconnect", session, user, tag, now, ("$cause", departure.cause.clone()))
    }
}

impl Presence for Probe {
    fn on_away(&mut self, absence: &Absence) -> Vec<Action> {
        let Absence { session, user, tag, now } = *absence;
        self.run_session("on-away", session, user, tag, now, ("$handed-over", false.to_string()))
    }

    fn on_back(&mut self, arrival: &Arrival) -> Vec<Action> {
        let Arrival { session, user, tag, handed_over, now } = *arrival;
        self.run_session("on-back", session, user, tag, now, ("$handed-over", handed_over.to_string()))
    }
}

impl Probe {
    /// Obeys one parameter of a query. In its value, `+` stands for a blank.
    fn obey(&self, key: &str, value: &str, connection: &Connection, admission: &mut Admission) -> Result<(), Denial> {
        match key {
            "deny" => return Err(Denial::new(value.parse().expect("a status"), format!("{} says no", self.name))),
            "user" => admission.user = Some(value.parse().expect("a user")),
            "tag" => admission.tag = value.parse().expect("a tag"),
            "attribute" => {
                let (name, text) = value.split_once(':').expect("`attribute=NAME:TEXT`");
                admission.attributes.push((name.to_owned(), text.to_owned()));
            }
            "do" => {
                let mut script = Script::new(self.route, Some(connection.session));
                script.run(value, &[("$session", connection.session.to_string())]).expect("commands");
                admission.actions.append(&mut script.actions);
            }
            "tell" => {
                let Connection { remote, query, headers, user, claims, .. } = connection;
                let told = format!("{remote} {query:?} {headers:?} {user:?} {claims:?}");
                admission.actions.push(Action::deliver_body(Target::Sender, self.route, told));
            }
            "trap" => panic!("as it was told to"),
            "loop" => loop {
                std::hint::spin_loop();
            },
            _ => {}
        }
        Ok(())
    }

    /// Runs the commands of an entry about a session, with one more variable.
    fn run_session(
        &self,
        key: &str,
        session: SessionId,
        user: Option<i64>,
        tag: u64,
        now: u64,
        more: (&str, String),
    ) -> Vec<Action> {
        let variables = [
            ("$session", session.to_string()),
            ("$user", user.map_or_else(|| "none".to_owned(), |user| user.to_string())),
            ("$tag", tag.to_string()),
            ("$now", now.to_string()),
            more,
        ];
        self.run_entry(key, Script::new(self.route, Some(session)), &variables)
    }

    /// Runs the commands of an entry of the state, if there is such an entry.
    fn run_entry(&self, key: &str, mut script: Script, variables: &[(&str, String)]) -> Vec<Action> {
        if let Some(commands) = state::get(key) {
            script.run(&String::from_utf8_lossy(&commands), variables).expect("commands");
        }
        script.actions
    }
}

impl Timers for Probe {
    fn on_wake(&mut self, key: u64, now: u64) -> Vec<Action> {
        let variables = [("$key", key.to_string()), ("$now", now.to_string())];
        self.run_entry(&format!("on-wake/{key}"), Script::new(self.route, None), &variables)
    }
}
