//! The settings of a plugin.

use serde::{Deserialize, de::DeserializeOwned};

/// The settings of a plugin, as [`Plugin::configure`](crate::Plugin::configure) receives them.
///
/// `Config` is a type of the plugin. If a key is missing or has the wrong type, the SDK rejects the settings, and the
/// error names the key. With `#[serde(deny_unknown_fields)]` the SDK also rejects unknown keys.
///
/// ```
/// use gateway_plugin_sdk::{Plugin, Sessions, Settings, export, testing::Harness};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     #[serde(default)]
///     max_players: u32,
/// }
///
/// struct Limited;
///
/// impl Plugin for Limited {
///     const NAME: &str = "limited";
///     type Config = Config;
///
///     fn configure(settings: Settings<Config>) -> Result<Self, String> {
///         if settings.config.max_players > 100 { Err("config.max_players: at most 100".to_owned()) } else { Ok(Self) }
///     }
/// }
///
/// impl Sessions for Limited {}
///
/// export!(Limited: Sessions);
///
/// assert!(Harness::<Limited>::new(r#"{"config": {"max_players": 3}}"#).is_ok());
/// let refused = |settings| Harness::<Limited>::new(settings).err().unwrap();
/// assert_eq!(refused(r#"{"config": {"max_players": 101}}"#), "config.max_players: at most 100");
/// assert!(refused(r#"{"config": {"min_players": 3}}"#).starts_with("config.min_players: unknown field"));
/// ```
#[derive(Clone, Debug, Deserialize)]
pub struct Settings<Config> {
    /// The value of `plugins.settings.NAME.config` in gateway.yaml, or an empty object if there is none.
    pub config: Config,
    /// The game ids in the list `games` of gateway.yaml.
    #[serde(default)]
    pub games: Vec<String>,
    /// The route bytes that the plugin serves: [`Plugin::ROUTES`](crate::Plugin::ROUTES), unless the operator sets
    /// `routes`.
    #[serde(default)]
    pub routes: Vec<u8>,
}

/// The [`Plugin::Config`](crate::Plugin::Config) of a plugin without settings. Every key is an error.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// Parses the JSON that the gateway passes to `configure`. An error names the path of the key.
pub(crate) fn parse<Config: DeserializeOwned>(json: &str) -> Result<Settings<Config>, String> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        format!("{path}: {}", error.into_inner())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[allow(dead_code, reason = "only its type matters here")]
        most: u32,
    }

    #[test]
    fn an_error_names_the_key() {
        let refused = |json| parse::<Config>(json).unwrap_err();
        assert!(refused(r#"{"config":{"most":"x"}}"#).starts_with("config.most: invalid type"));
        assert!(refused(r#"{"config":{"most":1,"mots":2}}"#).contains("unknown field `mots`"));
        let none = parse::<NoConfig>(r#"{"config":{"most":1}}"#).unwrap_err();
        assert!(none.contains("unknown field `most`"), "{none}");
    }
}
