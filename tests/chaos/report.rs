//! What a run is told by: the ledger as a table, what is wrong, and what the plan did around it.

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
/// Unknown messages that are shown one by one.
const SHOWN: usize = 20;
/// The events that are shown around one of them: so long before it and after it.
const BEFORE: Duration = Duration::from_secs(6);
const AFTER: Duration = Duration::from_secs(1);

impl Outcome {
    /// What is wrong; nothing if all is well.
    pub(crate) fn defects(&self) -> Vec<String> {
        let mut defects = self.faults.clone();
        let unknown = self.ledger.unknown().count();
        if unknown > 0 {
            defects.push(format!("{unknown} messages are unknown"));
        }
        if !self.ledger.doubled.is_empty() {
            defects.push(format!("{} messages arrived more than once", self.ledger.doubled.len()));
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

    /// A message with all that is known of it, and what the plan did around it.
    fn detail(&self, id: Id, why: &str) -> String {
        let message = &self.book.messages[&id];
        let mut text = format!("  {} {id}: {why}\n    {message:?}\n", seconds(message.sent));
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
        let mut unknown: Vec<_> = self.ledger.unknown().collect();
        unknown.extend(self.ledger.doubled.iter().map(|id| (*id, "it arrived more than once")));
        unknown.extend(self.not_delivered_after_recovery().map(|id| (id, "everything worked again by then")));
        if !unknown.is_empty() {
            writeln!(f, "\nunknown messages, the first {SHOWN} of each minute's worst")?;
        }
        for (id, why) in unknown.iter().take(SHOWN) {
            f.write_str(&self.detail(*id, why))?;
        }
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
