//! The decision on a client that asks for a session.

use crate::plugin::{Action, Admission, Decision, Denial, Rejection, SessionId, Tagging};

/// The attributes of a session, with their names. The box keeps a decision small that gives none.
pub(super) type Attributes = Box<Vec<(String, String)>>;

/// Makes an answer a decision. The user and the tag of an admission become its first actions, and its attributes are put
/// into `attributes`. A denial becomes a rejection with an HTTP status.
pub(super) fn on_connect(
    session: SessionId,
    answer: Result<Admission, Denial>,
    attributes: &mut Option<Attributes>,
) -> Decision {
    let admission = answer.map_err(|Denial { status, message }| Rejection { status, message })?;
    let Admission { user, tag, attributes: given, actions: wanted } = admission;
    if !given.is_empty() {
        *attributes = Some(Box::new(given));
    }
    let mut actions = Vec::with_capacity(wanted.len() + 2);
    actions.extend(user.map(Action::Bind));
    if tag != 0 {
        actions.push(Action::SetTag(Tagging { session, tag }));
    }
    actions.extend(wanted);
    Ok(actions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admission_becomes_actions_and_a_denial_a_rejection() {
        let session = SessionId { high: 0, low: 1 };
        let attributes = vec![("name".to_owned(), "Ann".to_owned())];
        let admission =
            Admission { user: Some(7), tag: 3, attributes: attributes.clone(), actions: vec![Action::Echo] };
        let mut given = None;
        let actions = on_connect(session, Ok(admission), &mut given).expect("an admission");
        assert_eq!(given.map(|given| *given), Some(attributes));
        assert!(matches!(actions[..], [Action::Bind(7), Action::SetTag(Tagging { tag: 3, .. }), Action::Echo]));
        let denied = on_connect(session, Err(Denial { status: 403, message: "no".to_owned() }), &mut None);
        assert!(matches!(denied, Err(Rejection { status: 403, .. })));
    }
}
