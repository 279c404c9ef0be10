// What the reasons and outcomes in the metrics mean, in plain words. docs/operation.md has the same tables.

export const DROPPED = {
  send_queue_full: "the client reads too slowly",
  session_closing: "the session was about to end",
  session_ended: "the session ended before the write",
  after_close: "packets from a client that is being closed",
  bus_unavailable: "the bus did not confirm it",
  bus_message_too_large: "larger than server.max_message_bytes",
  bus_entry_malformed: "an entry of a stream has no payload",
  no_subscriber: "its last listener has just ended",
  plugin_quarantined: "the plugin is in quarantine",
  plugin_busy: "too many calls wait for a slow plugin",
  bus_share: "the plugin used up its share of the bus",
  publish_loop: "the plugin published in a loop",
  too_many_pushes: "more deliveries than pushes allows",
  plugin_bound: "the plugin wanted more than it may have",
  state_full: "the plugin's state is larger than state_mb",
  plugin_replaced: "the new version has another state format",
  departures: "too many ends of sessions wait for a plugin",
  presence: "too many clients that went or came back wait for a plugin",
};

export const ROUTING = {
  malformed_packet: "status 1: the packet has no valid header",
  malformed_payload: "status 2: the plugin cannot read the payload",
  no_route: "status 3: no plugin serves the route",
  rejected: "status 4: the plugin said no",
  unavailable: "status 5: the bus, a backend or the plugin is not available",
  forbidden: "status 6: another user's session",
  too_many_requests: "status 7: too many packets or bytes",
  internal: "status 8: a defect",
  payload_too_large: "status 9: the payload is too large",
  custom: "a status of a game",
  message_rejected: "a bus message that a plugin or the host rejected",
  message_fault: "a bus message on which a plugin failed",
};

export const HANDSHAKES = {
  not_found: "the path is not /ws",
  bad_upgrade: "no WebSocket upgrade",
  not_http: "no HTTP, for example TLS on a port without TLS",
  too_large: "more than 16 KiB or 64 headers",
  origin: "server.allowed_origins does not list the web page",
  proxy_header: "a trusted proxy sent no valid PROXY header",
  denied: "no valid token",
  auth_unavailable: "the keys that check tokens are not loaded yet",
  denied_by_plugin: "a plugin denied the connection",
  plugin_unavailable: "a plugin that has to agree cannot be asked",
  sessions: "over limits.sessions",
  new_sessions: "over limits.new_sessions_per_s",
  sessions_per_ip: "over limits.sessions_per_ip",
  sessions_per_user: "over limits.sessions_per_user",
  handshakes_per_ip: "over limits.handshakes_per_s_per_ip",
  handshake_evicted: "made room for others: limits.handshakes",
  timeout: "not finished in time",
  gone: "the connection ended during the upgrade",
  accept_failed: "the system could not accept it",
  tls_required: "no TLS on a port with TLS",
  tls_failed: "the TLS handshake failed",
};

export const ENDS = {
  closed: "the client closed the session",
  gone: "the connection broke",
  idle: "the client was silent for too long",
  write_timeout: "the client read nothing for too long",
  text: "the client sent text",
  too_large: "the client sent a message that is too large",
  protocol_error: "the client broke the WebSocket protocol",
  receive_budget: "the client held most of the receive budget",
  frame_flood: "too many pings, pongs and small fragments",
  rate: "far over the limit on packets or bytes",
  sessions_per_user: "another session of the user began",
  send_queue_full: "the send queue was full",
  send_timeout: "a message waited for too long",
  policy: "a plugin closed the session",
  token_expired: "the token of the client expired",
  api: "an operator closed the session",
  plugin_faults: "packets of the session made a plugin fail",
  drain: "the gateway stopped",
  panic: "a defect of the gateway",
  moved: "the client goes on over another connection",
  dismissed: "the gateway stops, and the session waits in Redis",
};

export const RESUMES = {
  resumed: "the client has its session back",
  handed_over: "the session has come from another gateway",
  restored: "the session has waited in Redis, because its gateway stopped",
  busy: "could not be handed over at this moment",
  no_answer: "the gateway that had the session does not answer",
  no_room: "over a limit here, so the session stays where it is",
  unknown: "the session has ended, or the token was used before",
  another_user: "the token names another user",
  missed: "not everything that the client misses is still there",
};

export const UNRESUMED = {
  handed_over: "the session goes on at another gateway",
  stored: "the session waits in Redis, because the gateway stops",
  window: "the client was away for too long",
  evicted: "made room for others: resume.total_bytes",
  full: "more waited than resume keeps",
  missed: "not everything that the client missed was there",
  closed: "ended by a plugin, an operator or the stop",
};

export const FAULTS = {
  trap: "trapped",
  deadline: "ran longer than call_timeout_ms",
  memory: "needed more memory than allowed",
  invalid: "gave an answer that cannot be carried out",
};
