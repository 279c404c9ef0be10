//! The exported functions for packets and messages, whose results are freed by the next call.
//!
//! The generated code exports two functions for each call: the call, and a function with which the gateway frees the
//! result after it has read it. So the gateway enters the plugin once more for each packet. Without that, a packet takes
//! 3 % fewer instructions in the gateway. An instance keeps the memory of one result of each kind.
//!
//! `export_component!` takes the macros that export functions from a module that it is given. The modules below have the
//! structure of the generated ones, and only their macros differ.
#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::module_inception,
    reason = "the modules and functions are like those that are generated"
)]

use std::cell::Cell;

/// Frees a result that the gateway has read.
type Free = unsafe fn(*mut u8);

/// The result of the last call of one kind, and the function that frees it.
pub struct LastResult(Cell<Option<(Free, *mut u8)>>);

impl LastResult {
    #[must_use]
    pub const fn none() -> Self {
        Self(Cell::new(None))
    }

    /// Frees the last result, makes the next call, and keeps its result.
    ///
    /// # Safety
    /// `free` has to free what `call` returns, and the gateway must have read the last result.
    pub unsafe fn replace(&self, free: Free, call: impl FnOnce() -> *mut u8) -> *mut u8 {
        if let Some((free, result)) = self.0.take() {
            // SAFETY: the caller promises it.
            unsafe { free(result) };
        }
        let result = call();
        self.0.set(Some((free, result)));
        result
    }
}

/// Writes an export that is called for each packet or message: it frees the result of the call before, and calls the
/// plugin. `$call` and `$free` are the functions of the generated bindings for that.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_with_late_release {
    (
        $component:ident, $name:literal, $bindings:ident::$interface:ident,
        $export:ident($($argument:ident: $type:ty,)*) = ($call:ident, $free:ident)
    ) => {
        #[unsafe(export_name = $name)]
        unsafe extern "C" fn $export($($argument: $type),*) -> *mut u8 {
            use $crate::bindings::$bindings::exports::gateway::policy::$interface as generated;
            ::std::thread_local! {
                static LAST: $crate::release::LastResult = const { $crate::release::LastResult::none() };
            }
            let call = || unsafe { generated::$call::<$component>($($argument),*) };
            LAST.with(|last| unsafe { last.replace(generated::$free::<$component>, call) })
        }
    };
}

pub mod policy {
    pub mod exports {
        pub mod gateway {
            pub mod policy {
                pub mod policy {
                    #[doc(hidden)]
                    #[macro_export]
                    macro_rules! __export_on_packet {
                        ($component:ident with_types_in $($path:tt)*) => {
                            $crate::__export_with_late_release! {
                                $component, "gateway:policy/policy@0.2.3#on-packet", policy::policy,
                                on_packet(
                                    seq: i32,
                                    route: i32,
                                    flags: i32,
                                    session_high: i64,
                                    session_low: i64,
                                    has_user: i32,
                                    user: i64,
                                    tag: i64,
                                    now: i64,
                                    payload: *mut u8,
                                    payload_len: usize,
                                ) = (_export_on_packet_cabi, __post_return_on_packet)
                            }
                        };
                    }
                    pub use __export_on_packet as __export_gateway_policy_policy_0_2_3_cabi;
                }
            }
        }
    }
}

pub mod hearing {
    pub mod exports {
        pub mod gateway {
            pub mod policy {
                pub mod hearing {
                    #[doc(hidden)]
                    #[macro_export]
                    macro_rules! __export_on_message {
                        ($component:ident with_types_in $($path:tt)*) => {
                            $crate::__export_with_late_release! {
                                $component, "gateway:policy/hearing@0.2.3#on-message", hearing::hearing,
                                on_message(
                                    topic: *mut u8,
                                    topic_len: usize,
                                    payload: *mut u8,
                                    payload_len: usize,
                                    now: i64,
                                ) = (_export_on_message_cabi, __post_return_on_message)
                            }
                        };
                    }
                    pub use __export_on_message as __export_gateway_policy_hearing_0_2_3_cabi;
                }
            }
        }
    }
}
