//! The language in which the tests tell the plugin what to do.
//!
//! A script is a list of commands with `;` between them. A command is a word and its arguments, with one blank between
//! them. The last argument may contain blanks. In a script, `$session` and the like stand for what the call is about.
//!
//! A SESSION may be left out for the session that the call is about. A TARGET is `me`, `session:ID`, `user:7` or
//! `group:5`. KEEP is `always`, `may-drop` or `latest:1`. A BODY of the form `x*1000` stands for 1000 times `x`. In a
//! BODY, `|` stands for `;`, and `%` for `$`, so that a BODY can be a script.

use gateway_plugin_sdk::{Action, Delivery, SessionId, Target, attributes, state};
use std::{
    fmt::Display,
    hint,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// What the commands of one call have led to.
pub(crate) struct Script {
    route: u8,
    session: Option<SessionId>,
    /// The actions to return, in the order of the commands.
    pub(crate) actions: Vec<Action>,
    /// What the commands have found out.
    pub(crate) output: Vec<String>,
}

impl Script {
    /// Returns a script that has done nothing yet. Its pushes are on `route`.
    pub(crate) fn new(route: u8, session: Option<SessionId>) -> Self {
        Self { route, session, actions: Vec::new(), output: Vec::new() }
    }

    /// Runs commands.
    pub(crate) fn run(&mut self, commands: &str, variables: &[(&str, String)]) -> Result<(), String> {
        let mut commands = commands.to_owned();
        for (name, value) in variables {
            commands = commands.replace(name, value);
        }
        let commands = commands.split(';').map(str::trim_start).filter(|command| !command.is_empty());
        commands
            .into_iter()
            .try_for_each(|command| self.command(command).map_err(|error| format!("{command}: {error}")))
    }

    fn command(&mut self, command: &str) -> Result<(), String> {
        let mut words = Words(Some(command));
        let name = words.next()?;
        let action = match name {
            // How the call itself goes.
            "trap" => panic!("as it was told to"),
            "trap-every" => return trap_every(words.number()?),
            "spin" => return spin(Duration::from_millis(words.number()?)),
            "need" => return present(words.next()?),
            "must" => return present(words.next()?).map_err(|missing| panic!("{missing}")),
            "repeat" => return self.repeat(words.number()?, words.next_all()?),
            // What the call reads.
            "say" | "get" | "count" | "list" | "attribute" => return self.read(name, words),
            "add" => self.add(words.next()?)?,
            // What the call does.
            "bind" => Action::Bind(words.number()?),
            "publish" => Action::publish_body(words.next()?, body(words.next_all()?)?),
            "forward" => Action::publish(words.next()?),
            "put" => Action::put(words.next()?, body(words.next_all()?)?),
            "put-for" => {
                let ttl = Duration::from_millis(words.number()?);
                Action::put_for(words.next()?, body(words.next_all()?)?, ttl)
            }
            "remove" => Action::remove(words.next()?),
            "wake" => Action::wake(words.number()?, Duration::from_millis(words.number()?)),
            "cancel" => Action::cancel(words.number()?),
            "measure" => Action::measure(words.number()?, words.number()?),
            "deliver" | "others" | "end" => self.send(name, words)?,
            _ => self.hold(name, words)?,
        };
        self.actions.push(action);
        Ok(())
    }

    /// `repeat TIMES COMMAND`: in the command, `#` stands for the number of the repetition, from 0.
    fn repeat(&mut self, times: u64, command: &str) -> Result<(), String> {
        (0..times).try_for_each(|i| self.command(&command.replace('#', &i.to_string())))
    }

    /// `say TEXT`, `get KEY`, `count PREFIX`, `list PREFIX` and `attribute NAME SESSION` add to the output.
    fn read(&mut self, name: &str, mut words: Words<'_>) -> Result<(), String> {
        let text = |value: Option<Vec<u8>>| {
            value.map_or_else(|| "none".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
        };
        let found = match name {
            "say" => words.next_all()?.to_owned(),
            "get" => text(state::get(words.next()?)),
            "count" => state::scan(words.next()?, u32::MAX).len().to_string(),
            "list" => {
                let entries = state::scan(words.next()?, u32::MAX);
                let lines = entries.into_iter().map(|(key, value)| format!("{key}={}", text(Some(value))));
                lines.collect::<Vec<_>>().join(",")
            }
            _ => {
                let name = words.next()?;
                attributes::get(self.session(words)?, name).unwrap_or_else(|| "none".to_owned())
            }
        };
        self.output.push(found);
        Ok(())
    }

    /// `add KEY`: reads the number in an entry, and writes the next one.
    fn add(&mut self, key: &str) -> Result<Action, String> {
        let value = state::get(key).map(|value| number(&String::from_utf8_lossy(&value))).transpose()?;
        let next: u64 = value.unwrap_or(0) + 1;
        self.output.push(next.to_string());
        Ok(Action::put(key, next.to_string()))
    }

    /// `deliver TARGET KEEP BODY`, `others TARGET KEEP BODY` for all but the call's session, `end TARGET CODE REASON`.
    fn send(&self, name: &str, mut words: Words<'_>) -> Result<Action, String> {
        let target = target(words.next()?)?;
        if name == "end" {
            return Ok(Action::end(target, words.number()?, words.next_all()?));
        }
        let keep = words.next()?;
        let mut delivery = Delivery::to(target, self.route).body(body(words.next_all()?)?);
        delivery = match keep.split_once(':') {
            None if keep == "always" => delivery,
            None if keep == "may-drop" => delivery.may_drop(),
            Some(("latest", key)) => delivery.latest(number(key)?),
            _ => return Err(format!("{keep} is no KEEP")),
        };
        if name == "others" {
            delivery.except = self.session;
        }
        Ok(delivery.into())
    }

    /// `join GROUP SESSION`, `leave GROUP SESSION` and `tag TAG SESSION`. `listen TOPIC` and `unlisten TOPIC` are for
    /// the call's session, and `listen-group GROUP TOPIC` and `unlisten-group GROUP TOPIC` for a group.
    fn hold(&self, name: &str, mut words: Words<'_>) -> Result<Action, String> {
        match name {
            "listen-group" => return Ok(Action::listen_group(words.number()?, words.next()?)),
            "unlisten-group" => return Ok(Action::unlisten_group(words.number()?, words.next()?)),
            _ => {}
        }
        let argument = words.next()?;
        let session = self.session(words)?;
        Ok(match name {
            "join" => Action::join(session, number(argument)?),
            "leave" => Action::leave(session, number(argument)?),
            "tag" => Action::tag(session, number(argument)?),
            "listen" => Action::listen_session(session, argument),
            "unlisten" => Action::unlisten_session(session, argument),
            _ => return Err("there is no such command".to_owned()),
        })
    }

    fn session(&self, mut words: Words<'_>) -> Result<SessionId, String> {
        if words.0.is_some() {
            return number(words.next()?);
        }
        self.session.ok_or_else(|| "the call is about no session".to_owned())
    }
}

/// The arguments of a command.
struct Words<'a>(Option<&'a str>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        let rest = self.next_all()?;
        let (word, rest) = rest.split_once(' ').map_or((rest, None), |(word, rest)| (word, Some(rest)));
        self.0 = rest;
        Ok(word)
    }

    fn next_all(&mut self) -> Result<&'a str, String> {
        self.0.take().ok_or_else(|| "an argument is missing".to_owned())
    }

    fn number<T: FromStr<Err: Display>>(&mut self) -> Result<T, String> {
        number(self.next()?)
    }
}

/// Parses a number or a session id.
fn number<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

fn target(text: &str) -> Result<Target, String> {
    Ok(match text.split_once(':') {
        None if text == "me" => Target::Sender,
        Some(("session", id)) => Target::Session(number(id)?),
        Some(("user", user)) => Target::User(number(user)?),
        Some(("group", group)) => Target::Group(number(group)?),
        _ => return Err(format!("{text} is no TARGET")),
    })
}

fn body(text: &str) -> Result<String, String> {
    match text.split_once('*') {
        Some((part, times)) => Ok(part.repeat(number(times)?)),
        None => Ok(text.replace('|', ";").replace('%', "$")),
    }
}

/// Panics at every call of this number in the instance.
fn trap_every(calls: u64) -> Result<(), String> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    assert!(!call.is_multiple_of(calls), "as it was told to");
    Ok(())
}

/// `need KEY` rejects the call if there is no such entry, and `must KEY` traps.
fn present(key: &str) -> Result<(), String> {
    state::get(key).map(drop).ok_or_else(|| "there is no such entry".to_owned())
}

fn spin(time: Duration) -> Result<(), String> {
    let began = Instant::now();
    while began.elapsed() < time {
        hint::spin_loop();
    }
    Ok(())
}
