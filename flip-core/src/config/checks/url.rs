//! The URL of a `http` check: scheme, host, port and path (RFC 3986 §3), without the parts that a check has
//! no use for.

use super::Endpoint;

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub tls: bool,
    pub to: Endpoint,
    /// Path and query.
    pub path: String,
}

/// Reads a URL.
///
/// # Errors
/// Says what to do about it.
pub(super) fn parse(text: &str) -> Result<Url, &'static str> {
    if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err("write blanks and other characters than ASCII's as %20 and the like");
    }
    let (scheme, rest) = text.split_once("://").ok_or("write for instance http://127.0.0.1:8080/health")?;
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err("a check speaks http:// or https://"),
    };
    if rest.contains('#') {
        return Err("a fragment (#…) is never sent; remove it");
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        return Err("send a name and password by \"headers\": {\"Authorization\": \"Basic …\"}");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("an IPv6 address stands in brackets: [fd00::1]")?;
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| "an IPv6 address stands in brackets: [fd00::1]")?;
            (host, port)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if host.is_empty() {
        return Err("name a host, for instance http://127.0.0.1/");
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => {
            if tls {
                443
            } else {
                80
            }
        }
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => match digits.parse() {
            Ok(port) if port > 0 => port,
            Ok(_) | Err(_) => return Err("a port is a number from 1 to 65535"),
        },
        Some(_) | None => return Err("a port is a number from 1 to 65535"),
    };
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Url { tls, to: Endpoint { host: host.to_owned(), port }, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, tls, host, port, path) in [
            ("http://127.0.0.1", false, "127.0.0.1", 80, "/"),
            ("http://127.0.0.1:8080/health?deep=1", false, "127.0.0.1", 8080, "/health?deep=1"),
            ("https://db.example", true, "db.example", 443, "/"),
            ("https://[fd00::1]:8443/x", true, "fd00::1", 8443, "/x"),
            ("http://[::1]?q", false, "::1", 80, "/?q"),
        ] {
            let to = Endpoint { host: host.into(), port };
            assert_eq!(parse(text), Ok(Url { tls, to, path: path.into() }), "{text}");
        }
        for text in [
            "",
            "127.0.0.1",
            "ftp://a/",
            "http://",
            "http:///x",
            "http://a:0/",
            "http://a:65536/",
            "http://a:+1/",
            "http://a:/",
            "http://[fd00::1/",
            "http://[a]/",
            "http://[::1]x/",
            "http://u:p@a/",
            "http://a/#x",
            "http://a/ b",
            "http://ä/",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
