//! Tests of the dashboard and the playground in a real browser. They are skipped if Chromium is not installed.

use gateway_tests::{Browser, DEMO_CHAT, Gateway, Page, Setup, put};
use serde_json::{Value, json};

const TOKEN: &str = "a-secret-of-the-operator";

/// Returns a setup in which everything of the playground is served, and players go at this speed.
fn everything(speed: u32) -> Setup {
    let settings = format!("arena: {{ call_timeout_ms: 10000, config: {{ speed: {speed} }} }}");
    let yaml = format!(
        "games: [{{ id: mmo }}]\nresume: {{ window_s: 60 }}\nplugins: {{ directory: plugins, settings: {{ {settings} }} }}"
    );
    Setup { yaml, plugins: vec!["arena", "chat", "system", DEMO_CHAT], ..Setup::default() }
}

/// Returns the URL of a page, with the name of the machine that the admin listener expects.
fn url(gateway: &Gateway, path: &str) -> String {
    format!("http://localhost:{}{path}", gateway.admin.port())
}

/// Returns the number of the player of this window.
async fn player(page: &Page<'_>) -> u64 {
    let find = "[...document.querySelectorAll('#players li')].find((li) => li.innerText.includes('you'))";
    page.until(find).await;
    page.evaluate(&format!("{find}.dataset.player")).await.as_str().unwrap().parse().unwrap()
}

/// Returns where a player is, as this window shows it.
async fn place(page: &Page<'_>, player: u64) -> Value {
    page.evaluate(&format!("document.querySelector('#players li[data-player=\"{player}\"]').dataset.x")).await
}

/// Holds a key in one window until the other one shows that the player has gone there.
async fn sees_move(moves: &Page<'_>, watches: &Page<'_>, key: &str) {
    let player = player(moves).await;
    let before = place(watches, player).await;
    moves.evaluate("document.querySelector('#canvas').focus()").await;
    moves.press(key).await;
    let shown = format!("document.querySelector('#players li[data-player=\"{player}\"]').dataset.x");
    watches.until(&format!("Math.abs({shown} - {before}) > 500", before = before.as_str().unwrap())).await;
    moves.release(key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_and_two_players_look_at_one_gateway() {
    let Some(browser) = Browser::start("the dashboard and the playground").await else { return };
    let gateway = Gateway::start(everything(6000)).await;
    let dashboard = browser.open(&url(&gateway, "/")).await;
    dashboard.says("#state", "Ready").await;
    dashboard.says("#figure-sessions", "0").await;
    dashboard.says("#log", "No warnings or errors since the start").await;

    let [anna, berta] =
        [browser.open(&url(&gateway, "/playground")).await, browser.open(&url(&gateway, "/playground")).await];
    for page in [&anna, &berta] {
        page.click("#play").await;
        page.says("#state", "Connected").await;
    }
    for page in [&anna, &berta] {
        page.until("document.querySelectorAll('#players li').length === 2").await;
    }
    dashboard.until("document.querySelector('#figure-sessions strong').innerText === '2'").await;
    dashboard.until("parseFloat(document.querySelector('#figure-sent strong').innerText) > 10").await;

    sees_move(&anna, &berta, "ArrowRight").await;
    sees_move(&berta, &anna, "ArrowLeft").await;

    for (page, user) in [(&anna, "1"), (&berta, "2")] {
        page.fill("#chat-user", user).await;
        page.click("#chat-send").await;
        page.says("#chat-lines", &format!("This session belongs to user {user} now")).await;
    }
    anna.fill("#chat-to", "2").await;
    anna.fill("#chat-text", "<b>hello</b>").await;
    anna.click("#chat-send").await;
    berta.says("#chat-lines", "<b>hello</b>").await;

    // A packet that nobody serves, and what the inspector says about the reply.
    anna.fill("#route", "99").await;
    anna.click("#send-button").await;
    anna.says("#packets", "no route").await;
    anna.click(".packet").await;
    anna.says("#inspector", "no plugin serves route 0x63").await;
    dashboard.says("#log", "packet refused").await;
    dashboard.says("#lost", "no_route").await;

    // The plugin is swapped while they play: both stay in the room, over the same connection.
    gateway.reconfigure(&everything(9000));
    for page in [&anna, &berta] {
        page.says("#swapped", "generation 1 → 2. You are still in the room").await;
        page.says("#swapped", "speed 6 → 9").await;
        page.says("#arena-room", "2 players").await;
    }
    dashboard.says("#plugins", "generation 2").await;

    // A file that is no plugin: the dashboard has the whole reason.
    put(&gateway.plugin("chat"), b"rubbish");
    dashboard.says("#plugins", "it is not a WebAssembly component").await;
    dashboard.says("#plugins", "Version 0.1.0, which was loaded before, goes on serving").await;

    // A connection that breaks: the session goes on, and so does the game.
    berta.click("#cut").await;
    berta.says("#happened", "The same session goes on").await;
    berta.says("#arena-room", "2 players").await;

    dashboard.fill("#wanted", "1").await;
    dashboard.click("#find button").await;
    dashboard.says("#found", "1 session of user 1 on this gateway").await;
    dashboard.click("#found tbody button").await;
    dashboard.fill("#reason", "see you").await;
    dashboard.click("#end").await;
    dashboard.says("#found", "1 session ended on this gateway. The other gateways were told.").await;
    anna.says("#happened", "4002 see you").await;
    berta.until("document.querySelectorAll('#players li').length === 1").await;

    gateway.signal("TERM").await;
    dashboard.says("#state", "Not reachable since").await;
    dashboard.says("#problems", "goes on by itself when the gateway is back").await;
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_asks_for_the_token_and_keeps_it_until_the_tab_is_closed() {
    let Some(browser) = Browser::start("the dashboard with a token").await else { return };
    let gateway = Gateway::start(Setup { admin: format!("token: {TOKEN}"), ..everything(6000) }).await;
    let page = browser.open(&url(&gateway, "/")).await;
    page.says("#state", "Signed out").await;
    page.until("!document.querySelector('#board').checkVisibility()").await;
    page.fill("#token", "a-secret-of-somebody-else").await;
    page.click("#login button").await;
    page.says("#login-error", "The token is not the one in gateway.yaml").await;
    page.fill("#token", TOKEN).await;
    page.click("#login button").await;
    page.says("#plugins", "system").await;
    page.reload().await;
    page.says("#plugins", "system").await;
    assert_eq!(page.evaluate("document.cookie + JSON.stringify(localStorage)").await, "{}");
    // Another tab has no token: its playground works, and does not know the generation of the plugin.
    let other = browser.open(&url(&gateway, "/playground")).await;
    other.until("document.querySelector('#url').value.endsWith(':8080/ws')").await;
    other.fill("#url", &format!("ws://{}/ws", gateway.address)).await;
    other.click("#play").await;
    other.says("#arena-room", "1 player").await;
    assert_eq!(other.evaluate("document.querySelector('#arena-plugin').innerText").await, "");
    page.click("#sign-out").await;
    page.says("#state", "Signed out").await;
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_playground_says_why_it_cannot_connect() {
    let Some(browser) = Browser::start("the playground without a connection").await else { return };
    let origins = "allowed_origins: [\"https://game.example\"]".to_owned();
    let gateway = Gateway::start(Setup { server: origins, ..everything(6000) }).await;
    let page = browser.open(&url(&gateway, "/playground")).await;
    page.click("#connect").await;
    page.says("#trouble", "server.allowed_origins in gateway.yaml does not list this page").await;
    page.says("#trouble", &url(&gateway, "")).await;
    page.fill("#url", "ws://127.0.0.1:9/ws").await;
    page.click("#connect").await;
    page.says("#trouble", "this gateway has seen no connection").await;
    page.fill("#url", "localhost").await;
    page.click("#connect").await;
    page.says("#trouble", "begins with ws:// or wss://").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_computes_rates_and_quantiles_from_the_metrics() {
    let Some(browser) = Browser::start("the figures of the dashboard").await else { return };
    let gateway = Gateway::start(Setup::default()).await;
    let page = browser.open(&url(&gateway, "/")).await;
    // Half of 100 calls took up to 1 ms, and the others up to 2 ms. Then 10 calls took longer than the last bound.
    let script = r##"(async () => {
        const { History, Sample } = await import("/pages/metrics.js");
        const text = (fast, all, slow, lost) => [
            "# TYPE x histogram",
            `x_bucket{plugin="a\\"b\\n",le="0.001"} ${fast}`,
            `x_bucket{le="0.002",plugin="a\\"b\\n"} ${all}`,
            `x_bucket{plugin="a\\"b\\n",le="+Inf"} ${all + slow}`,
            `lost_total{reason="r"} ${lost} # {trace_id="abc"} 0.05`,
            `lost_total{reason="s"} 1.0`,
            "# EOF",
        ].join("\n");
        const history = new History();
        history.push(new Sample(text(0, 0, 0, 5), 0));
        const none = history.quantiles(60, [0.5], "x", {});
        history.push(new Sample(text(50, 100, 0, 35), 10_000));
        const label = { plugin: "a\"b\n" };
        const both = history.quantiles(60, [0.5, 0.99], "x", label).map((seconds) => Math.round(seconds * 1e6));
        const other = history.quantiles(60, [0.5], "x", { plugin: "c" });
        const rates = [history.rate(60, "lost_total"), history.growth(60, "lost_total", { reason: "r" })];
        const sums = [history.last.sum("lost_total"), history.last.by("lost_total", "reason").get("s")];
        history.push(new Sample(text(50, 100, 10, 35), 20_000));
        const slow = history.quantiles(5, [0.99], "x", label);
        return [none, both, other, rates, sums, slow];
    })()"##;
    let expected = json!([null, [1000, 1980], null, [3, 30], [36, 1], [0.002]]);
    assert_eq!(page.evaluate(script).await, expected);
}

/// A gateway that has one session of a user with a large id, and from which no answer to an order comes.
const SILENT_GATEWAY: &str = r##"(() => {
    const sessions = `{ "sessions": [{
        "id": "01234567-89ab-cdef-0123-456789abcdef", "user": 9007199254740993, "user_id": "9007199254740993",
        "remote": "192.0.2.1:40000", "away": false, "connected_at_ms": 0, "queued_messages": 0, "queued_bytes": 0
    }], "total": 1 }`;
    const real = window.fetch;
    window.fetch = async (path, options) => {
        if (path.startsWith("/api/sessions?")) return new Response(sessions);
        if (!path.endsWith("/close")) return real(path, options);
        if (document.querySelector("#reason").value === "wrong") return new Response("{}", { status: 400 });
        throw new DOMException("", "TimeoutError");
    };
})()"##;

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_shows_large_user_ids_and_does_not_guess_what_became_of_an_order() {
    let Some(browser) = Browser::start("the sessions on the dashboard").await else { return };
    let gateway = Gateway::start(Setup::default()).await;
    let page = browser.open(&url(&gateway, "/")).await;
    page.says("#state", "Ready").await;
    page.evaluate(SILENT_GATEWAY).await;
    page.fill("#wanted", "9007199254740993").await;
    page.click("#find button").await;
    page.says("#found tbody", "9007199254740993").await;

    page.click("#found tbody button").await;
    page.click("#end").await;
    page.says("#ending-error", "It is not known whether anything was ended: no answer within 5 s.").await;
    page.fill("#reason", "wrong").await;
    page.click("#end").await;
    page.says("#ending-error", "Nothing was ended: the gateway answered with status 400.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_goes_on_after_answers_that_were_cut() {
    let Some(browser) = Browser::start("the dashboard without whole answers").await else { return };
    let gateway = Gateway::start(Setup::default()).await;
    let page = browser.open(&url(&gateway, "/")).await;
    page.says("#state", "Ready").await;
    // The head of each answer comes, and its body does not.
    let cut = "window.real = window.fetch; window.fetch = async () => new Response(new ReadableStream({ \
               start(body) { body.error(new TypeError(\"network error\")); } }));";
    page.evaluate(&format!("(() => {{ {cut} }})()")).await;
    page.says("#state", "Not reachable since").await;
    page.evaluate("(() => { window.fetch = window.real; })()").await;
    page.says("#state", "Ready").await;
    assert_eq!(browser.errors(), Vec::<String>::new());
}
