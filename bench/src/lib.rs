//! The code that the programs and tests of the benchmark share.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod in_process;
pub mod scale;

use std::collections::BTreeMap;

use anyhow::Context;
use chat_proto::chat::ChatRequest;
use chat_proto::common::MessageBase;
use prost::Message;

/// Builds a chat request of 64 bytes, of user 1 in the game `mmo`.
#[must_use]
pub fn chat_request() -> Vec<u8> {
    let base = MessageBase { game_id: "mmo".to_owned(), user_id: 1, timestamp: 1_700_000_000_000 };
    ChatRequest { base: Some(base), content: "x".repeat(46), ..ChatRequest::default() }.encode_to_vec()
}

/// Reads `budget.txt`, the instructions of each step of a packet's way. Each line has a step and its instructions, and `#`
/// begins a comment.
///
/// # Errors
/// Names a line that is neither.
pub fn budget(text: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let entry = |line: &str| {
        let (step, instructions) = line.split_once(' ').with_context(|| line.to_owned())?;
        anyhow::Ok((step.to_owned(), instructions.trim().parse().with_context(|| line.to_owned())?))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(entry).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_budget_has_a_number_for_each_step() {
        let steps = super::budget("# what\nheader 67\nlimits 125\n").unwrap();
        assert_eq!(steps.into_iter().collect::<Vec<_>>(), [("header".to_owned(), 67), ("limits".to_owned(), 125)]);
        assert_eq!(super::budget("header 67\nlimits").unwrap_err().to_string(), "limits");
    }

    #[test]
    fn it_has_64_bytes() {
        assert_eq!(super::chat_request().len(), 64);
    }
}
