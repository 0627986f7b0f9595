//! The table of settings.

use std::time::Duration;

use serde_yaml::Value;

use super::Config;
use super::value::{Bytes, Read, list, map, unless_off};
use crate::model::{Authority, HostPattern};
use crate::proxy::settings::Unbound;
use crate::upstream::egress::{Direct, Proxy};

/// One setting.
pub struct Setting {
    /// Its path in the file.
    pub path: &'static str,
    /// Whether SIGHUP takes it over.
    pub reload: bool,
    pub(super) take: fn(&mut Config, &Value) -> Result<(), String>,
    pub(super) show: fn(&Config) -> String,
}

impl Setting {
    /// Its environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("SALLYPORT_{}", self.path.to_ascii_uppercase().replace('.', "_"))
    }
}

/// A setting whose field reads itself.
macro_rules! plain {
    ($path:literal, $($field:ident).+) => {
        Setting {
            path: $path,
            reload: false,
            take: |config, value| {
                config.$($field).+ = Read::read(value)?;
                Ok(())
            },
            show: |config| format!("{:?}", config.$($field).+),
        }
    };
}

/// A setting that can be `off`.
macro_rules! maybe {
    ($path:literal, $($field:ident).+) => {
        Setting {
            path: $path,
            reload: false,
            take: |config, value| {
                config.$($field).+ = unless_off(value)?;
                Ok(())
            },
            show: |config| format!("{:?}", config.$($field).+),
        }
    };
}

/// A size.
macro_rules! size {
    ($path:literal, $($field:ident).+) => {
        Setting {
            path: $path,
            reload: false,
            take: |config, value| {
                let Bytes(bytes) = Bytes::read(value)?;
                config.$($field).+ = bytes.try_into().map_err(|_| "it is too large for this machine")?;
                Ok(())
            },
            show: |config| format!("{:?}", config.$($field).+),
        }
    };
}

/// A setting that is read in a way of its own.
macro_rules! own {
    ($path:literal, $($field:ident).+, $read:expr) => {
        Setting {
            path: $path,
            reload: false,
            take: |config, value| {
                config.$($field).+ = $read(value)?;
                Ok(())
            },
            show: |config| format!("{:?}", config.$($field).+),
        }
    };
}

/// Every setting, in the order of the default file.
pub const SETTINGS: &[Setting] = &[
    maybe!("listen.proxy", node.forward),
    maybe!("listen.proxy_tls", node.forward_tls),
    maybe!("listen.gateway", node.gateway),
    maybe!("listen.gateway_tls", node.gateway_tls),
    maybe!("listen.admin", admin_listen),
    own!("listen.proxy_protocol", node.proxy.balancers, |v| {
        list(v, |net| net.parse().map_err(|_| format!("{net} is no network such as 10.0.0.0/8")))
    }),
    plain!("store.url", store.url),
    maybe!("store.owner_url", store.owner_url),
    maybe!("store.feed_url", store.feed_url),
    plain!("store.connections", store.connections),
    plain!("store.timeout", store.timeout),
    plain!("store.answer", store.answer),
    plain!("store.poll", store.poll),
    plain!("store.keep_changes", store.keep_changes),
    plain!("store.keep_ended", store.keep_ended),
    plain!("store.tidy", node.tidy),
    plain!("store.retry", node.retry),
    plain!("store.max_staleness", node.max_staleness),
    own!("upstream.extra_ca", node.extra_ca, |v| list(v, |t| Ok(t.into()))),
    own!("upstream.resolve", node.upstream.resolve, |v| map(v, |authority, address| {
        let authority = Authority::parse(authority, 443).map_err(|why| why.to_string())?;
        Ok((authority, address.parse().map_err(|_| format!("{address} is no ADDRESS:PORT"))?))
    })),
    own!("upstream.allow_private", node.upstream.allow_private, |v| {
        list(v, |net| net.parse().map_err(|_| format!("{net} is no network such as 10.0.0.0/8")))
    }),
    own!("upstream.refused_ports", node.upstream.refused_ports, |v: &Value| {
        let all = v.as_sequence().ok_or("it is a list: [first, second]")?;
        let port = |one: &Value| one.as_u64().and_then(|port| u16::try_from(port).ok());
        all.iter().map(|one| port(one).ok_or_else(|| "each item is a port".to_owned())).collect::<Result<Vec<_>, _>>()
    }),
    own!("upstream.proxy", node.upstream.egress.proxy, |v: &Value| match unless_off::<String>(v)? {
        Some(url) => Proxy::parse(&url).map(Some),
        None => Ok(None),
    }),
    maybe!("upstream.proxy_credentials", node.proxy_credentials),
    own!("upstream.no_proxy", node.upstream.egress.direct, |v| list(v, Direct::parse)),
    size!("upstream.proxy_head", node.upstream.proxy_head_bytes),
    plain!("upstream.interim", node.upstream.interim),
    own!("upstream.busy_poll", node.upstream.busy_poll, |v| match Duration::read(v)? {
        long if long > Duration::from_millis(10) =>
            Err("it is at most 10ms, all of which a core may spend on asking; 0us turns it off".to_owned()),
        short => Ok::<_, String>(short),
    }),
    plain!("upstream.deadlines.resolve", node.upstream.deadlines.resolve),
    plain!("upstream.deadlines.connect", node.upstream.deadlines.connect),
    plain!("upstream.deadlines.tls", node.upstream.deadlines.tls),
    plain!("upstream.deadlines.proxy", node.upstream.deadlines.proxy),
    plain!("upstream.deadlines.headers", node.upstream.deadlines.headers),
    plain!("upstream.deadlines.continued", node.upstream.deadlines.continued),
    plain!("upstream.deadlines.idle_body", node.upstream.deadlines.idle_body),
    plain!("upstream.pool.max_idle", node.upstream.pool.max_idle),
    plain!("upstream.pool.idle", node.upstream.pool.idle),
    plain!("upstream.pool.lifetime", node.upstream.pool.lifetime),
    plain!("upstream.pool.streams", node.upstream.pool.streams),
    own!("gateway.routes", node.routes, |v| map(v, |name, base| {
        let fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if name.is_empty() || !fits {
            return Err(format!("{name:?} is no path segment of letters, digits, '-', '_' and '.'"));
        }
        crate::model::BaseUrl::parse(base)
            .map_err(|_| format!("{name}: its base URL isn't one such as https://api.example.com/v1"))?;
        Ok((name.to_owned(), base.to_owned()))
    })),
    plain!("proxy.require_auth", node.proxy.require_auth),
    own!("proxy.unbound", node.proxy.unbound, |v: &Value| match v.as_str() {
        Some("forward") => Ok(Unbound::Forward),
        Some("tunnel") => Ok(Unbound::Tunnel),
        Some("deny") => Ok(Unbound::Deny),
        _ => Err("it is forward, tunnel or deny".to_owned()),
    }),
    own!("proxy.tunnel", node.proxy.tunnel, |v| {
        list(v, |host| HostPattern::parse(host).map_err(|why| format!("{host}: {why}")))
    }),
    plain!("proxy.cores", node.cores),
    size!("proxy.limits.head", node.proxy.limits.head_bytes),
    plain!("proxy.limits.headers", node.proxy.limits.headers),
    size!("proxy.limits.whole_body", node.proxy.limits.whole_body),
    plain!("proxy.limits.connections", node.proxy.limits.connections),
    plain!("proxy.limits.spliced", node.proxy.limits.spliced),
    plain!("proxy.limits.streams", node.proxy.limits.streams),
    size!("proxy.limits.proxy_header", node.proxy.limits.proxy_header_bytes),
    plain!("proxy.limits.auth_tries", node.proxy.limits.auth_tries),
    plain!("proxy.limits.scrub_patterns", node.proxy.limits.scrub_patterns),
    size!("proxy.limits.body_slot", node.proxy.limits.body_slot_bytes),
    size!("proxy.limits.body_slots", node.proxy.limits.body_slots_bytes),
    plain!("proxy.limits.codings", node.proxy.limits.codings),
    size!("proxy.limits.window", node.proxy.limits.window_bytes),
    size!("proxy.limits.windows", node.proxy.limits.windows_bytes),
    plain!("proxy.limits.expansion", node.proxy.limits.expansion),
    size!("proxy.limits.expanded", node.proxy.limits.expanded_bytes),
    plain!("proxy.limits.masked", node.proxy.limits.masked),
    size!("proxy.limits.websocket_buffer", node.proxy.limits.websocket_buffer),
    size!("proxy.limits.signed_body", node.proxy.limits.signed_body),
    size!("proxy.limits.signed_bodies", node.proxy.limits.signed_bodies),
    size!("proxy.limits.frame_slot", node.proxy.limits.frame_slot),
    plain!("proxy.limits.frame_keys", node.proxy.limits.frame_keys),
    plain!("proxy.deadlines.head", node.proxy.deadlines.head),
    plain!("proxy.deadlines.tls", node.proxy.deadlines.tls),
    plain!("proxy.deadlines.idle_body", node.proxy.deadlines.idle_body),
    plain!("proxy.deadlines.whole_body", node.proxy.deadlines.whole_body),
    plain!("proxy.deadlines.body_slot", node.proxy.deadlines.body_slot),
    plain!("proxy.deadlines.unread", node.proxy.deadlines.unread),
    plain!("proxy.deadlines.linger", node.proxy.deadlines.linger),
    plain!("proxy.deadlines.websocket_idle", node.proxy.deadlines.websocket_idle),
    plain!("proxy.deadlines.websocket_close", node.proxy.deadlines.websocket_close),
    plain!("admin.tls", admin_tls),
    maybe!("admin.certificate", admin_certificate),
    maybe!("admin.key", admin_key),
    plain!("admin.deadline", admin.deadline),
    plain!("admin.head", admin.head),
    plain!("admin.age", admin.age),
    plain!("admin.socket_look", admin.socket_look),
    size!("admin.limits.body", admin.body_bytes),
    plain!("admin.limits.requests_per_second", admin.requests_per_second),
    plain!("admin.limits.failures_per_minute", admin.failures_per_minute),
    plain!("admin.limits.connections", admin.connections),
    plain!("admin.limits.connections_of_one", admin.connections_of_one),
    plain!("credential.deadline", node.credential.deadline),
    plain!("credential.tries", node.credential.tries),
    plain!("credential.backoff", node.credential.backoff),
    plain!("credential.longest_backoff", node.credential.longest_backoff),
    size!("credential.message", node.credential.message_bytes),
    plain!("credential.ahead", node.credential.ahead),
    plain!("credential.assumed_lifetime", node.credential.assumed_lifetime),
    plain!("credential.longest_lifetime", node.credential.longest_lifetime),
    plain!("credential.held", node.credential.held),
    plain!("credential.issued_lifetime", node.credential.issued_lifetime),
    plain!("credential.issued", node.credential.issued),
    plain!("credential.lease", node.credential.lease),
    plain!("credential.lease_look", node.credential.lease_look),
    plain!("credential.lease_wait", node.credential.lease_wait),
    plain!("credential.storing_wait", node.credential.storing_wait),
    plain!("credential.storing_retry", node.credential.storing_retry),
    plain!("credential.storing", node.credential.storing),
    size!("audit.segment", node.audit.segment_bytes),
    plain!("audit.chains", node.audit.chains),
    plain!("audit.checkpoint_every", node.audit.checkpoint_every),
    size!("audit.held", node.audit.held_bytes),
    plain!("audit.uses", node.audit.uses),
    plain!("audit.sync", node.audit.sync),
    plain!("audit.tail", tail),
    Setting {
        path: "telemetry.log",
        reload: true,
        take: |config, value| {
            let filter = String::read(value)?;
            crate::telemetry::check_filter(&filter)?;
            config.log = filter;
            Ok(())
        },
        show: |config| config.log.clone(),
    },
    own!("telemetry.format", log_json, |v: &Value| match v.as_str() {
        Some("text") => Ok(false),
        Some("json") => Ok(true),
        _ => Err("it is text or json".to_owned()),
    }),
    plain!("shutdown.drain", drain),
];
