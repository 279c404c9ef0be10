//! Tests of the chat route: what is published, to whom a session is bound, and what is refused.

use super::{GAME, Stage};
use gateway_tests::chat_request;

#[tokio::test]
async fn a_chat_request_is_published_byte_for_byte() {
    let mut stage = Stage::new().await;
    let request = chat_request("mmo", 7, "hi");
    // The requests have fields of a newer version at the end, at the beginning and within `base`, overlong numbers,
    // `base` in two pieces, meta, or 1 MiB of extra_data.
    let unknown = b"\xa0\x06\x2a\x7a\x03new\xfa\xff\xff\xff\x0f\x01!";
    let written = [
        request.clone(),
        [&request[..], unknown].concat(),
        [&unknown[..], &request].concat(),
        b"\x0a\x0c\x0a\x03mmo\x10\x07\x7a\x03new".to_vec(),
        b"\x8a\x00\x89\x00\x0a\x03mmo\x10\x87\x80\x00".to_vec(),
        b"\x0a\x05\x0a\x03mmo\x2a\x02hi\x0a\x02\x10\x07".to_vec(),
        [&request[..], b"\x52\x0c\x22\x0asession-id"].concat(),
        [&request[..], b"\x32\x80\x80\x40", &vec![0xfe; 1 << 20]].concat(),
    ];
    for payload in &written {
        stage.published("mmo", payload).await;
    }
    stage.client.assert_alive().await;
    stage.gateway.metric_is("gateway_bus_published_total", written.len() as f64).await;
}

#[tokio::test]
async fn the_first_valid_user_id_binds_the_session_and_another_one_gets_status_6() {
    let mut stage = Stage::new().await;
    stage.published("mmo", &chat_request("mmo", 7, "binds")).await;
    for user in [8, 1, i32::MAX] {
        stage.refused(&chat_request("mmo", user, "somebody else"), 6, "user").await;
        stage.published("mmo", &chat_request("mmo", 7, "still the same")).await;
    }
    stage.refusals_are("forbidden", 3).await;
    // Another session may be another user's, or the same user's.
    for user in [8, 7] {
        stage.client = stage.gateway.client().await;
        stage.published("mmo", &chat_request("mmo", user, "a session of its own")).await;
    }
}

#[tokio::test]
async fn a_request_that_is_refused_for_another_reason_does_not_bind() {
    let mut stage = Stage::new().await;
    for (payload, status) in [
        (chat_request("", 7, "no game"), 2),
        (chat_request("other", 7, "not configured"), 4),
        (chat_request("mmo", 0, "nobody"), 2),
        (chat_request("mmo", -7, "below nobody"), 2),
        ([&chat_request("mmo", 7, "truncated")[..], b"\x0a\x7f"].concat(), 2),
    ] {
        stage.refused(&payload, status, "ChatRequest").await;
    }
    assert_eq!(stage.client.request(GAME, &chat_request("mmo", 7, "another route")).await.status, 3);
    stage.published("mmo", &chat_request("mmo", 8, "binds")).await;
    stage.refused(&chat_request("mmo", 7, "too late"), 6, "user").await;
}

#[tokio::test]
async fn a_request_without_base_game_id_or_a_positive_user_id_gets_status_2() {
    let mut stage = Stage::new().await;
    let users = [0, -1, i32::MIN];
    for (payload, why) in [
        (Vec::new(), "base"),
        (b"\x2a\x02hi".to_vec(), "base"),
        (b"\x0a\x00".to_vec(), "game_id"),
        (b"\x0a\x02\x10\x07".to_vec(), "game_id"),
        (chat_request("", 7, "hi"), "game_id"),
        (b"\x0a\x05\x0a\x03mmo".to_vec(), "user_id"),
    ]
    .into_iter()
    .chain(users.map(|user| (chat_request("mmo", user, "hi"), "user_id")))
    {
        stage.refused(&payload, 2, why).await;
    }
    stage.client.assert_alive().await;
    stage.refusals_are("malformed_payload", 9).await;
    stage.published("mmo", &chat_request("mmo", 7, "nothing was published before")).await;
}

#[tokio::test]
async fn a_broken_protobuf_gets_status_2() {
    let mut stage = Stage::new().await;
    let whole = chat_request("mmo", 7, "hi");
    // A request is complete at the end of `base`. Every other prefix ends within a field.
    let base = 2 + usize::from(whole[1]);
    let mut broken: Vec<_> = (1..whole.len()).filter(|len| *len != base).map(|len| whole[..len].to_vec()).collect();
    let wrong_types: [&[u8]; 12] = [
        b"\x08\x01",                                 // base: a number
        b"\x09\0\0\0\0\0\0\0\0",                     // base: 64 bits
        b"\x0d\0\0\0\0",                             // base: 32 bits
        b"\x0a\x04\x08\x01\x10\x07",                 // game_id: a number
        b"\x0a\x08\x0a\x03mmo\x12\x01\x07",          // user_id: a string
        b"\x0a\x07\x0a\x01\xff\x10\x07\x18\x05",     // game_id: not UTF-8
        b"\x0a\xff\xff\xff\xff\x0f\x0a\x03mmo",      // base: a length of 2^32 - 1
        b"\x0b\x0a\x03mmo\x10\x07\x0c",              // base: a group
        b"\x0e\x00",                                 // a wire type that does not exist
        b"\x00\x00",                                 // field 0
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", // a tag of more than 64 bits
        b"\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b", // groups without an end
    ];
    broken.extend(wrong_types.map(<[u8]>::to_vec));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for len in 0..300 {
        let mut noise = vec![0; len];
        for byte in &mut noise {
            // Marsaglia's xorshift makes the same noise in every run.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            *byte = (random >> 32) as u8;
        }
        broken.push(noise);
    }
    for payload in &broken {
        stage.refused(payload, 2, "ChatRequest").await;
    }
    stage.client.assert_alive().await;
    stage.refusals_are("malformed_payload", broken.len()).await;
    stage.published("mmo", &whole).await;
}

/// Returns ids that could be mistaken for other topics, for patterns or for commands.
fn hostile_games() -> Vec<String> {
    let mut games: Vec<_> = ["mmo\r\nPUBLISH x", "mmo\r\n", "*", "mmo*", "a:b", "a/b", "a b", " mmo", "mmo ", "m\0o"]
        .into_iter()
        .chain([
            "[mmo]",
            "?",
            "{mmo}",
            "é",
            "ｍｍｏ",
            "💬",
            "\u{202e}omm",
            "\t",
            "\x7f",
            "$(x)",
            "%6d",
            "a,b",
            "~",
            "\\",
        ])
        .map(str::to_owned)
        .collect();
    games.extend([65, 256, 100_000].map(|len| "x".repeat(len)));
    games
}

#[tokio::test]
async fn a_game_that_is_not_configured_gets_status_4() {
    let mut stage = Stage::with("games: [{ id: mmo }, { id: rpg.2-beta_x }]").await;
    let mut games = hostile_games();
    games.extend(["other", "MMO", "mm", "mmoo", "rpg", "broadcast"].map(str::to_owned));
    for game in &games {
        stage.refused(&chat_request(game, 7, "hi"), 4, "game").await;
    }
    stage.client.assert_alive().await;
    stage.refusals_are("rejected", games.len()).await;
    stage.published("mmo", &chat_request("mmo", 7, "nothing was published before")).await;
    stage.published("rpg.2-beta_x", &chat_request("rpg.2-beta_x", 7, "every configured game is served")).await;
}

#[tokio::test]
async fn with_no_games_configured_any_id_that_cannot_be_another_topic_is_served_and_others_get_status_4() {
    let mut stage = Stage::with("games: []").await;
    let hostile = hostile_games();
    for game in &hostile {
        stage.refused(&chat_request(game, 7, "hi"), 4, "game").await;
    }
    stage.client.assert_alive().await;
    stage.refusals_are("rejected", hostile.len()).await;
    stage.refused(&chat_request("", 7, "no game at all"), 2, "game_id").await;
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.";
    assert_eq!(alphabet.len(), 64);
    for game in [alphabet, &"x".repeat(64), "-", ".", "..", "_", "0", "mmo", "A_z.0-9", "broadcast"] {
        stage.published(game, &chat_request(game, 7, "hi")).await;
    }
}
