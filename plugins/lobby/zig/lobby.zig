//! The lobby: clients log in, ask for their user, write to each other, and publish on the bus.
//!
//! An exported function owns its arguments and has to free them. The caller frees the results with C's `free`, so they
//! have to be allocated with C's allocator.

const std = @import("std");
const wit = @import("plugin");

/// A panic traps without a message, since printing the message would import WASI.
pub const panic = std.debug.no_panic;

const allocator = std.heap.c_allocator;

const Action = wit.types_action_t;
const Attribute = wit.plugin_tuple2_string_string_t;
const Rejection = wit.types_rejection_t;
const SessionId = wit.types_session_id_t;
const Target = wit.types_target_t;

const default_route = 0x10;
/// The group of all sessions.
const everybody = 1;

/// The entry that counts the messages since the last report.
const said_key = "said";

/// The timer for the report of the count. It is set by the first message after a report.
const report_timer = 1;
const report_after_ms = 10_000;

const Status = enum(u16) { ok = 0, malformed_payload = 2, rejected = 4, forbidden = 6, lobby = 256 };

const Decision = union(enum) { actions: []Action, rejection: Rejection };

const Config = struct { topic: []const u8 = "lobby", max_bytes: usize = 64, route: u8 = default_route };

var lobby: Config = .{};

export fn exports_plugin_describe(manifest: *wit.exports_plugin_manifest_t) void {
    const routes = copy(u8, &.{default_route});
    manifest.* = .{
        .name = print("lobby", .{}),
        .version = print("0.1.0", .{}),
        .routes = .{ .ptr = routes.ptr, .len = routes.len },
        .gatekeeper = true,
    };
}

export fn exports_plugin_configure(
    settings: *wit.plugin_string_t,
    topics: *wit.plugin_list_string_t,
    refusal: *wit.plugin_string_t,
) bool {
    defer wit.plugin_string_free(settings);
    var arena: std.heap.ArenaAllocator = .init(allocator);
    defer arena.deinit();
    const given = std.json.parseFromSliceLeaky(std.json.Value, arena.allocator(), bytes(settings), .{}) catch |err| {
        refusal.* = print("the settings are no JSON: {t}", .{err});
        return false;
    };
    lobby = readConfig(given.object.get("config"), refusal) orelse return false;
    if (given.object.get("routes")) |routes| {
        if (routes.array.items.len > 0) lobby.route = @intCast(routes.array.items[0].integer);
    }

    var line: wit.plugin_string_t = undefined;
    wit.plugin_string_set(&line, "lobby configured");
    wit.log_write(wit.LOG_LEVEL_DEBUG, &line);
    fill(topics, wit.plugin_string_t, &.{print("{s}:out", .{lobby.topic})});
    return true;
}

export fn exports_policy_on_packet(
    packet: *wit.types_packet_t,
    payload: *wit.plugin_list_u8_t,
    actions: *wit.exports_policy_list_action_t,
    rejection: *Rejection,
) bool {
    defer wit.plugin_list_u8_free(payload);
    return answer(decide(packet, bytes(payload)), actions, rejection);
}

export fn exports_hearing_on_message(
    topic: *wit.plugin_string_t,
    payload: *wit.plugin_list_u8_t,
    _: u64,
    actions: *wit.exports_hearing_list_action_t,
    rejection: *Rejection,
) bool {
    defer wit.plugin_string_free(topic);
    defer wit.plugin_list_u8_free(payload);
    return answer(forward(bytes(payload)), actions, rejection);
}

export fn exports_sessions_on_connect(
    connection: *wit.exports_sessions_connection_t,
    admission: *wit.exports_sessions_admission_t,
    denial: *wit.exports_sessions_denial_t,
) bool {
    defer wit.exports_sessions_connection_free(connection);
    // The bindings forget the claims when they free a connection.
    defer wit.plugin_option_string_free(&connection.claims);
    admission.* = .{};
    if (findName(bytes(connection.query))) |name| {
        if (!isName(name)) {
            const message = print("name: 1 to 16 characters of A-Z a-z 0-9 _ - are allowed", .{});
            denial.* = .{ .status = 400, .message = message };
            return false;
        }
        const attribute: Attribute = .{ .f0 = print("name", .{}), .f1 = print("{s}", .{name}) };
        fill(&admission.attributes, Attribute, &.{attribute});
    }
    fill(&admission.actions, Action, &.{.{
        .tag = wit.TYPES_ACTION_JOIN,
        .val = .{ .join = .{ .session = connection.session, .group = everybody } },
    }});
    return true;
}

export fn exports_sessions_on_disconnect(
    departure: *wit.exports_sessions_departure_t,
    actions: *wit.exports_sessions_list_action_t,
) void {
    defer wit.exports_sessions_departure_free(departure);
    actions.* = .{};
    if (departure.user.is_some) {
        fill(actions, Action, &.{deliver(to_everybody, print("{d} left", .{departure.user.val}))});
    }
}

export fn exports_timers_on_wake(_: u64, _: u64, actions: *wit.exports_timers_list_action_t) void {
    actions.* = .{};
    const said = readSaid() orelse return;
    var report = deliver(to_everybody, print("messages: {d}", .{said}));
    report.val.deliver.keep = .{ .tag = wit.TYPES_KEEP_LATEST, .val = .{ .latest = report_timer } };
    fill(actions, Action, &.{ report, putSaid(null) });
}

/// Passes a decision to the gateway. The bindings have a type of lists for each exported interface.
fn answer(decision: Decision, actions: anytype, rejection: *Rejection) bool {
    switch (decision) {
        .actions => |list| actions.* = .{ .ptr = list.ptr, .len = list.len },
        .rejection => |why| rejection.* = why,
    }
    return decision == .actions;
}

fn readConfig(given: ?std.json.Value, refusal: *wit.plugin_string_t) ?Config {
    var config: Config = .{};
    const object = (given orelse return config).object;
    for (object.keys()) |key| {
        if (std.mem.eql(u8, key, "topic") or std.mem.eql(u8, key, "max_bytes")) continue;
        refusal.* = print("config.{s}: unknown key (known: topic, max_bytes)", .{key});
        return null;
    }
    if (object.get("topic")) |topic| {
        if (topic != .string or !isTopic(topic.string)) {
            refusal.* = print("config.topic: 1 to 64 characters of a-z 0-9 : _ - are allowed", .{});
            return null;
        }
        config.topic = copy(u8, topic.string);
    }
    if (object.get("max_bytes")) |max_bytes| {
        if (max_bytes != .integer or max_bytes.integer < 1 or max_bytes.integer > 65536) {
            refusal.* = print("config.max_bytes: 1 to 65536 is allowed", .{});
            return null;
        }
        config.max_bytes = @intCast(max_bytes.integer);
    }
    return config;
}

fn isTopic(text: []const u8) bool {
    return text.len >= 1 and text.len <= 64 and
        std.mem.findNone(u8, text, "abcdefghijklmnopqrstuvwxyz0123456789:_-") == null;
}

fn isName(text: []const u8) bool {
    return text.len >= 1 and text.len <= 16 and
        std.mem.findNone(u8, text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == null;
}

/// Returns the value of the first parameter `name`, as it is written in the query.
fn findName(query: []const u8) ?[]const u8 {
    var parameters = std.mem.splitScalar(u8, query, '&');
    while (parameters.next()) |parameter| {
        if (std.mem.cutPrefix(u8, parameter, "name=")) |name| return name;
    }
    return null;
}

fn decide(packet: *const wit.types_packet_t, text: []const u8) Decision {
    if (text.len == 0) return reject(.malformed_payload, "the payload is empty", .{});
    if (!std.unicode.utf8ValidateSlice(text)) return reject(.malformed_payload, "the payload is not UTF-8", .{});
    if (text.len > lobby.max_bytes) return reject(.rejected, "more than {d} bytes", .{lobby.max_bytes});
    if (!packet.user.is_some) return logIn(text);
    const user = packet.user.val;

    const Command = enum { whoami, ping, bye, status, crash };
    const command = std.meta.stringToEnum(Command, text) orelse {
        if (std.mem.startsWith(u8, text, "login ")) return reject(.rejected, "already logged in", .{});
        const words = std.mem.cutPrefix(u8, text, "say ") orelse "";
        return if (words.len > 0) say(packet, words) else send(user, text);
    };
    return switch (command) {
        .whoami => perform(&.{reply(.ok, "user {d}, session {f}", .{ user, Uuid{ .id = packet.session } })}),
        .ping => perform(&.{.{ .tag = wit.TYPES_ACTION_ECHO }}),
        .bye => perform(&.{.{
            .tag = wit.TYPES_ACTION_END,
            .val = .{ .end = .{
                .whom = .{ .tag = wit.TYPES_TARGET_SENDER },
                .closing = .{ .code = 1000, .reason = print("bye", .{}) },
            } },
        }}),
        .status => perform(&.{reply(.lobby, "lobby", .{})}),
        .crash => @panic("a client asked for it"),
    };
}

fn logIn(text: []const u8) Decision {
    const user = parseUser(std.mem.cutPrefix(u8, text, "login ") orelse "") orelse
        return reject(.forbidden, "log in first", .{});
    return perform(&.{
        .{ .tag = wit.TYPES_ACTION_BIND, .val = .{ .bind = user } },
        reply(.ok, "welcome {d}", .{user}),
    });
}

/// Delivers a text to everybody else, and counts it.
fn say(packet: *const wit.types_packet_t, text: []const u8) Decision {
    var name = nameOfSender(packet);
    defer wit.plugin_string_free(&name);
    var message = deliver(to_everybody, print("{s}: {s}", .{ bytes(name), text }));
    message.val.deliver.except = .{ .is_some = true, .val = packet.session };
    const sent = reply(.ok, "sent", .{});

    if (readSaid()) |said| return perform(&.{ message, putSaid(said + 1), sent });
    const wake: Action = .{
        .tag = wit.TYPES_ACTION_WAKE,
        .val = .{ .wake = .{ .key = report_timer, .after_ms = .{ .is_some = true, .val = report_after_ms } } },
    };
    return perform(&.{ message, putSaid(1), wake, sent });
}

/// Returns the sender's attribute `name`, or the sender's user id if there is none.
fn nameOfSender(packet: *const wit.types_packet_t) wit.plugin_string_t {
    var session = packet.session;
    var attribute: wit.plugin_string_t = undefined;
    wit.plugin_string_set(&attribute, "name");
    var name: wit.plugin_string_t = undefined;
    if (wit.attributes_get(&session, &attribute, &name)) return name;
    return print("{d}", .{packet.user.val});
}

/// Returns the number of messages since the last report, or null if there are none.
fn readSaid() ?u64 {
    var key: wit.plugin_string_t = undefined;
    wit.plugin_string_set(&key, said_key);
    var value: wit.plugin_list_u8_t = undefined;
    if (!wit.state_get(&key, &value)) return null;
    defer wit.plugin_list_u8_free(&value);
    return std.fmt.parseInt(u64, bytes(value), 10) catch null;
}

/// Writes the number of messages since the last report, or removes it.
fn putSaid(said: ?u64) Action {
    var entry: wit.types_entry_t = .{ .key = print(said_key, .{}) };
    if (said) |number| entry.value = some(print("{d}", .{number}));
    return .{ .tag = wit.TYPES_ACTION_PUT, .val = .{ .put = entry } };
}

/// Delivers a text of the form `to USER TEXT` to one user, and publishes any other text on the bus.
fn send(from: i64, text: []const u8) Decision {
    if (std.mem.cutPrefix(u8, text, "to ")) |rest| {
        const to, const words = split(rest);
        if (words.len > 0) if (parseUser(to)) |user| {
            const body = print("from {d}: {s}", .{ from, words });
            return perform(&.{ deliver(toUser(user), body), reply(.ok, "sent", .{}) });
        };
    }
    return perform(&.{.{
        .tag = wit.TYPES_ACTION_PUBLISH,
        .val = .{ .publish = .{ .topic = print("{s}", .{lobby.topic}) } },
    }});
}

/// Delivers a bus message, unchanged, to the user or the session that the message begins with.
fn forward(message: []const u8) Decision {
    const to, const text = split(message);
    if (text.len > 0 and std.unicode.utf8ValidateSlice(message)) {
        if (parseUser(to)) |user| return perform(&.{deliver(toUser(user), null)});
        if (parseSession(to)) |id| {
            const target: Target = .{ .tag = wit.TYPES_TARGET_SESSION, .val = .{ .session = id } };
            return perform(&.{deliver(target, null)});
        }
    }
    return reject(.malformed_payload, "a message is `USER TEXT` or `SESSION TEXT`", .{});
}

/// Splits the text at its first space. The second part keeps all further spaces.
fn split(text: []const u8) struct { []const u8, []const u8 } {
    const head, const tail = std.mem.cutScalar(u8, text, ' ') orelse return .{ text, "" };
    return .{ head, tail };
}

fn parseUser(text: []const u8) ?i64 {
    // parseInt alone would also accept a plus sign, underscores and leading zeros.
    if (std.mem.startsWith(u8, text, "0") or std.mem.findNone(u8, text, "0123456789") != null) return null;
    return std.fmt.parseInt(i64, text, 10) catch null;
}

fn parseSession(text: []const u8) ?SessionId {
    const form = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    if (text.len != form.len) return null;
    var id: u128 = 0;
    for (text, form) |char, expected| {
        if (expected == '-') {
            if (char != '-') return null;
        } else {
            id = id << 4 | (std.fmt.charToDigit(char, 16) catch return null);
        }
    }
    return .{ .high = @truncate(id >> 64), .low = @truncate(id) };
}

const Uuid = struct {
    id: SessionId,

    pub fn format(uuid: Uuid, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        const high, const low = .{ uuid.id.high, uuid.id.low };
        try writer.print("{x:0>8}-{x:0>4}-{x:0>4}-{x:0>4}-{x:0>12}", .{
            high >> 32, high >> 16 & 0xffff, high & 0xffff, low >> 48, low & 0xffff_ffff_ffff,
        });
    }
};

fn perform(actions: []const Action) Decision {
    return .{ .actions = copy(Action, actions) };
}

fn reject(status: Status, comptime format: []const u8, args: anytype) Decision {
    return .{ .rejection = .{ .status = @backingInt(status), .message = print(format, args) } };
}

fn reply(status: Status, comptime format: []const u8, args: anytype) Action {
    const body = print(format, args);
    return .{
        .tag = wit.TYPES_ACTION_REPLY,
        .val = .{ .reply = .{ .status = @backingInt(status), .body = .{ .ptr = body.ptr, .len = body.len } } },
    };
}

fn deliver(to: Target, body: ?wit.plugin_string_t) Action {
    var delivery: wit.types_delivery_t = .{ .to = to, .route = lobby.route };
    if (body) |text| delivery.body = some(text);
    return .{ .tag = wit.TYPES_ACTION_DELIVER, .val = .{ .deliver = delivery } };
}

const to_everybody: Target = .{ .tag = wit.TYPES_TARGET_GROUP, .val = .{ .group = everybody } };

fn toUser(user: i64) Target {
    return .{ .tag = wit.TYPES_TARGET_USER, .val = .{ .user = user } };
}

fn some(text: wit.plugin_string_t) wit.plugin_option_list_u8_t {
    return .{ .is_some = true, .val = .{ .ptr = text.ptr, .len = text.len } };
}

fn bytes(list: anytype) []const u8 {
    return list.ptr[0..list.len];
}

fn fill(list: anytype, comptime T: type, items: []const T) void {
    const copied = copy(T, items);
    list.* = .{ .ptr = copied.ptr, .len = copied.len };
}

fn copy(comptime T: type, items: []const T) []T {
    return allocator.dupe(T, items) catch @panic("out of memory");
}

fn print(comptime format: []const u8, args: anytype) wit.plugin_string_t {
    const text = std.fmt.allocPrint(allocator, format, args) catch @panic("out of memory");
    return .{ .ptr = text.ptr, .len = text.len };
}
