//! Peers that speak something else on the native port: one plain line tells them where to go.

use bytes::Bytes;

/// What a peer seems to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    Http,
    Tls,
    Ssh,
    Proxy,
    Kafka,
}

/// Judges the first bytes of a connection. Four are enough for all but Kafka, which also begins with a length.
///
/// No frame of the native protocol begins like any of these: read as a length, the first four bytes lie far above
/// every limit, and a payload never begins with the zero byte of a Kafka request.
pub(super) fn recognize(first: &[u8]) -> Option<Foreign> {
    let starts = |texts: &[&[u8]]| texts.iter().any(|text| first.starts_with(text));
    if starts(&[
        b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI ",
    ]) {
        return Some(Foreign::Http);
    }
    if starts(&[b"\x16\x03"]) && first.len() >= 4 {
        return Some(Foreign::Tls);
    }
    if starts(&[b"SSH-"]) {
        return Some(Foreign::Ssh);
    }
    if starts(&[b"PROX", b"\r\n\r\n"]) {
        return Some(Foreign::Proxy);
    }
    match first {
        // Length, API key below 128, API version below 32.
        [0, 0, _, _, 0, key, 0, version, ..] if *key < 128 && *version < 32 => Some(Foreign::Kafka),
        _ => None,
    }
}

impl Foreign {
    /// What the peer is told.
    pub(super) fn line(self, http_port: Option<u16>) -> Bytes {
        let elsewhere = http_port.map_or(String::new(), |port| format!("; HTTP is on port {port}"));
        let line = match self {
            Self::Http => format!("this is the native port of a Naru broker, not HTTP{elsewhere}"),
            Self::Tls => format!("this port of a Naru broker speaks no TLS{elsewhere}"),
            Self::Ssh => format!("this is the native port of a Naru broker, not SSH{elsewhere}"),
            Self::Proxy => format!("this port of a Naru broker takes no PROXY protocol header{elsewhere}"),
            Self::Kafka => format!("this is the native port of a Naru broker, not Kafka's{elsewhere}"),
        };
        match self {
            // Without a status line, curl hides the text behind an error of its own.
            Self::Http => Bytes::from(format!(
                "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n{line}\r\n"
            )),
            Self::Tls | Self::Ssh | Self::Proxy | Self::Kafka => Bytes::from(format!("{line}\r\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_recognized_by_their_first_bytes() {
        for (first, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Foreign::Http),
            (b"POST", Foreign::Http),
            (b"PRI * HTTP/2.0\r\n", Foreign::Http),
            (b"\x16\x03\x01\x02\x00\x01", Foreign::Tls),
            (b"SSH-2.0-OpenSSH_9.9\r\n", Foreign::Ssh),
            (b"PROXY TCP4 1.2.3.4", Foreign::Proxy),
            (b"\r\n\r\n\0\r\nQUIT\n", Foreign::Proxy),
            (b"\0\0\0\x23\0\x12\0\x04\0\0\0\x01", Foreign::Kafka),
        ] {
            assert_eq!(recognize(first), Some(expected), "{first:?}");
        }
    }

    #[test]
    fn native_frames_are_not_taken_for_something_else() {
        for first in [
            &b""[..],
            b"\0\0\0\x10",
            b"\0\0\0\x10\x08\x01\x52\x02",
            b"\0\x16\x03\x01",
            b"GE",
        ] {
            assert_eq!(recognize(first), None, "{first:?}");
        }
    }

    #[test]
    fn the_line_names_the_http_port() {
        for foreign in [
            Foreign::Http,
            Foreign::Tls,
            Foreign::Ssh,
            Foreign::Proxy,
            Foreign::Kafka,
        ] {
            let line = String::from_utf8(foreign.line(Some(9641)).to_vec()).unwrap();
            assert!(line.ends_with("; HTTP is on port 9641\r\n"), "{line}");
        }
    }
}
