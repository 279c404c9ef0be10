//! The report of a run: the ledger as a table, the defects, and the events of the plan around them.

use crate::{
    journal::{At, Kind},
    ledger::Account,
    messages::Id,
    run::Outcome,
};
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    time::Duration,
};

const KINDS: [Kind; 4] = [Kind::Heartbeat, Kind::Request, Kind::Response, Kind::Broadcast];
/// How many messages are shown in detail, for each cause.
const SHOWN: usize = 3;
/// How long before a message the first shown event may be.
const BEFORE: Duration = Duration::from_secs(6);
/// How long after a message the last shown event may be.
const AFTER: Duration = Duration::from_secs(1);

impl Outcome {
    /// Returns the defects that the run found, or nothing if every message is accounted for.
    pub(crate) fn defects(&self) -> Vec<String> {
        let mut defects = self.faults.clone();
        let unknown = self.ledger.unknown().count();
        if unknown > 0 {
            defects.push(format!("{unknown} messages are unknown"));
        }
        if !self.ledger.duplicates.is_empty() {
            defects.push(format!("{} messages arrived more than once", self.ledger.duplicates.len()));
        }
        let late = self.not_delivered_after_recovery().count();
        if late > 0 {
            defects.push(format!("{late} messages that were sent when everything worked again were not delivered"));
        }
        defects
    }

    fn not_delivered_after_recovery(&self) -> impl Iterator<Item = Id> {
        let later = self.book.messages.iter().filter(|(_, message)| message.sent > self.recovered);
        later.map(|(id, _)| *id).filter(|id| self.ledger.accounts[id] != Account::Delivered)
    }

    fn table(&self) -> BTreeMap<&Account, [usize; KINDS.len()]> {
        let mut rows = BTreeMap::new();
        for (id, account) in &self.ledger.accounts {
            let row: &mut [usize; KINDS.len()] = rows.entry(account).or_default();
            row[self.book.messages[id].kind as usize] += 1;
        }
        rows
    }

    /// Returns the messages that are wrong, grouped by cause.
    fn causes(&self) -> BTreeMap<&'static str, Vec<Id>> {
        let mut causes = BTreeMap::<_, Vec<_>>::new();
        self.ledger.unknown().for_each(|(id, why)| causes.entry(why).or_default().push(id));
        self.ledger.duplicates.iter().for_each(|id| causes.entry("it arrived more than once").or_default().push(*id));
        let late = self.not_delivered_after_recovery();
        late.for_each(|id| causes.entry("it was not delivered when everything worked again").or_default().push(id));
        causes
    }

    /// Returns the report of the messages with one cause: some in detail, the others by id and time.
    fn details(&self, why: &str, ids: &[Id]) -> String {
        let mut text = format!("\n{} messages: {why}\n", ids.len());
        let (shown, others) = ids.split_at(ids.len().min(SHOWN));
        shown.iter().for_each(|id| text += &self.detail(*id));
        for others in others.chunks(10) {
            text += " ";
            others
                .iter()
                .for_each(|id| text += &format!(" {id} at {:.3} s,", self.book.messages[id].sent.as_secs_f64()));
            text += "\n";
        }
        text
    }

    /// Returns all observations of a message, and the events of the plan around it.
    fn detail(&self, id: Id) -> String {
        let message = &self.book.messages[&id];
        let mut text = format!("  {} {id}: {message:?}\n", seconds(message.sent));
        if let Some(session) = message.session {
            let _ = writeln!(text, "    session {session}: {:?}", self.book.sessions[session]);
        }
        let near = |at: &At| *at + BEFORE >= message.sent && *at <= message.sent + AFTER;
        for (at, event) in self.book.events.iter().filter(|(at, _)| near(at)) {
            let _ = writeln!(text, "    {} {event}", seconds(*at));
        }
        text
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "what happened")?;
        self.book.events.iter().try_for_each(|(at, event)| writeln!(f, "{} {event}", seconds(*at)))?;
        self.causes().iter().try_for_each(|(why, ids)| f.write_str(&self.details(why, ids)))?;
        writeln!(f, "\nledger of {} sessions", self.book.sessions.len())?;
        writeln!(f, "{:>10} {:>10} {:>10} {:>10}", "heartbeats", "requests", "responses", "broadcasts")?;
        for (account, [heartbeats, requests, responses, broadcasts]) in self.table() {
            writeln!(f, "{heartbeats:>10} {requests:>10} {responses:>10} {broadcasts:>10}  {account}")?;
        }
        let defects = self.defects();
        if defects.is_empty() {
            return writeln!(f, "verdict: good, every message is accounted for");
        }
        defects.iter().try_for_each(|defect| writeln!(f, "verdict: BAD, {defect}"))
    }
}

fn seconds(at: At) -> String {
    format!("{:>8.3} s ", at.as_secs_f64())
}
