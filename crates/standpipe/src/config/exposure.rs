//! Which addresses a server may listen on without more being said: what others on the network reach is either
//! encrypted or was asked for by a name that says what it means.

use std::net::IpAddr;

use super::layers::Layers;
use super::{Mode, Values, over_tls};
use crate::exit::Result;

/// Refuses plain doors that others reach, and an emulator that others reach.
pub(super) fn check(mode: Mode, values: &Values, layers: &Layers) -> Result<()> {
    let doors = [
        ("server.listen", &values.server.listen, "--listen"),
        ("server.line", &values.server.line, "--line"),
        ("server.resp", &values.server.resp, "--resp"),
        ("mcp.listen", &values.mcp.listen, "--mcp"),
        ("mcp.line", &values.mcp.line, "--mcp-line"),
    ];
    for (name, at, argument) in doors {
        let (tls, at) = over_tls(at);
        let exposed = !at.is_empty() && !at.contains('/') && !is_loopback(at);
        match mode {
            Mode::Dev if exposed && !values.server.dangerously_expose_emulator => {
                let text = format!(
                    "{at} can be reached by others, and in dev whoever says `owner` is the administrator: listen on \
                     127.0.0.1, use standpipe serve, or ask for it (--dangerously-expose-emulator)"
                );
                return Err(layers.wrong(&[name], &text));
            }
            Mode::Serve if exposed && !tls && !values.server.insecure => {
                let encrypted = match name {
                    "server.listen" => format!("speak https there (--tls NAME --tls-listen {at})"),
                    _ => format!("speak TLS there ({argument} tls:{at} with --tls NAME)"),
                };
                let text = format!(
                    "{at} can be reached by others, who could read along and change what is sent: {encrypted}, or allow \
                     it, as behind a proxy that speaks https (--insecure)"
                );
                return Err(layers.wrong(&[name], &text));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Does the address not leave this machine?
pub(crate) fn is_loopback(at: &str) -> bool {
    let host = at.rsplit_once(':').map_or(at, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised() {
        let check = |at: &str, expected| assert_eq!(is_loopback(at), expected, "{at}");
        check("127.0.0.1:9000", true);
        check("127.8.0.1:9000", true);
        check("localhost:9000", true);
        check("[::1]:9000", true);
        check("[::ffff:127.0.0.1]:9000", true);
        check("0.0.0.0:9000", false);
        check("[::]:9000", false);
        check("192.168.1.5:9000", false);
        check("localhost.example.com:9000", false);
        check("127.0.0.1.example.com:9000", false);
    }
}
