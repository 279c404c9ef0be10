;; A plugin that uses up resources that compiled code never uses up. The payload names the resource. "handles",
;; "tables" and "recurse" take the resource until the call fails, and "5000 handles" takes 5000 handles.
(component
  (core module $module
    (import "own" "new" (func $new (param i32) (result i32)))
    (memory (export "memory") 1)
    (table $one 0 funcref)
    (table $two 0 funcref)

    ;; Every allocation returns the same address, since a call may overwrite the arguments of the previous call.
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))

    ;; The manifest: a pointer and a length for each of the name, the version and the routes.
    (data (i32.const 64) "\80\00\00\00\07\00\00\00" "\90\00\00\00\05\00\00\00" "\a0\00\00\00\01\00\00\00")
    (data (i32.const 128) "endless")
    (data (i32.const 144) "0.1.0")
    (data (i32.const 160) "\67")
    (func (export "describe") (result i32) (i32.const 64))

    ;; Traps. A test uses this function as the post-return function of `describe`.
    (func (export "trap") (param i32) unreachable)

    ;; Returns the address of a successful result with an empty list: the memory at 256 is zero. This is the result of
    ;; every export: no topics from `configure`, and no actions from the others.
    (func $nothing (result i32) (i32.const 256))
    (func (export "configure") (param i32 i32) (result i32) (call $nothing))
    (func (export "on-message") (param i32 i32 i32 i32) (result i32) (call $nothing))

    ;; The parameters are seq, route, flags, session (high, low), user (present, id) and payload (pointer, length).
    (func (export "on-packet") (param i32 i32 i32 i64 i64 i32 i32 i32 i32) (result i32)
      (local $first i32)
      (local.set $first (i32.load8_u (local.get 7)))
      (if (i32.eq (local.get $first) (i32.const 0x68 (; h ;))) (then (call $handles)))
      (if (i32.eq (local.get $first) (i32.const 0x35 (; 5 ;))) (then (call $five-thousand-handles)))
      (if (i32.eq (local.get $first) (i32.const 0x74 (; t ;))) (then (call $tables)))
      (if (i32.eq (local.get $first) (i32.const 0x72 (; r ;))) (then (drop (call $recurse (i32.const 0)))))
      (call $nothing))

    ;; Creates handles without end.
    (func $handles
      (loop $again
        (drop (call $new (i32.const 0)))
        (br $again)))

    (func $five-thousand-handles
      (local $i i32)
      (loop $again
        (drop (call $new (i32.const 0)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $i) (i32.const 5000)))))

    ;; Grows two tables in turn, until the host refuses to grow one of them.
    (func $tables
      (loop $again
        (if (i32.eq (i32.const -1) (table.grow $one (ref.null func) (i32.const 10000))) (then unreachable))
        (if (i32.eq (i32.const -1) (table.grow $two (ref.null func) (i32.const 10000))) (then unreachable))
        (br $again)))

    ;; Exhausts the machine stack. Compiled code exhausts its own stack in linear memory first.
    (func $recurse (param i32) (result i32)
      (i32.add (i32.const 1) (call $recurse (i32.add (i32.const 1) (local.get 0))))))

  (type $own (resource (rep i32)))
  (core func $new (canon resource.new $own))
  (core instance $core (instantiate $module (with "own" (instance (export "new" (func $new))))))
  (alias core export $core "memory" (core memory $memory))
  (alias core export $core "realloc" (core func $realloc))
  (alias core export $core "trap" (core func $trap))

  ;; The interface, as in wit/policy.wit.
  (type $manifest (record (field "name" string) (field "version" string) (field "routes" (list u8))))
  (type $session-id (record (field "high" u64) (field "low" u64)))
  (type $packet (record (field "seq" u32) (field "route" u8) (field "flags" u8)
    (field "session" $session-id) (field "user" (option s32))))
  (type $publication (record (field "topic" string) (field "body" (option (list u8)))))
  (type $answer (record (field "status" u16) (field "body" (list u8))))
  (type $target (variant (case "session" $session-id) (case "user" s32)))
  (type $delivery (record (field "to" $target) (field "route" u8) (field "body" (option (list u8)))))
  (type $closing (record (field "code" u16) (field "reason" string)))
  (type $action (variant (case "publish" $publication) (case "bind" s32) (case "reply" $answer) (case "echo")
    (case "deliver" $delivery) (case "close" $closing)))
  (type $rejection (record (field "status" u16) (field "message" string)))

  (func $describe (result $manifest)
    (canon lift (core func $core "describe") (memory $memory)))
  (func $configure (param "settings" string) (result (result (list string) (error string)))
    (canon lift (core func $core "configure") (memory $memory) (realloc $realloc)))
  (func $on-packet (param "packet" $packet) (param "payload" (list u8)) (result (result (list $action) (error $rejection)))
    (canon lift (core func $core "on-packet") (memory $memory) (realloc $realloc)))
  (func $on-message (param "topic" string) (param "payload" (list u8)) (result (result (list $action) (error $rejection)))
    (canon lift (core func $core "on-message") (memory $memory) (realloc $realloc)))

  (instance (export "gateway:policy/policy@0.1.0")
    (export "manifest" (type $manifest))
    (export "session-id" (type $session-id))
    (export "packet" (type $packet))
    (export "publication" (type $publication))
    (export "answer" (type $answer))
    (export "target" (type $target))
    (export "delivery" (type $delivery))
    (export "closing" (type $closing))
    (export "action" (type $action))
    (export "rejection" (type $rejection))
    (export "describe" (func $describe))
    (export "configure" (func $configure))
    (export "on-packet" (func $on-packet))
    (export "on-message" (func $on-message))))
