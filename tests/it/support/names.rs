//! A tiny name server, whose answers are the test's.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

/// What a name has at its nth look-up, counted from 1.
pub type Addresses = dyn Fn(&str, usize) -> Vec<IpAddr> + Send + Sync;

pub struct Names {
    asked: Arc<Mutex<Vec<String>>>,
}

const A: u16 = 1;
const AAAA: u16 = 28;

impl Names {
    pub async fn start(at: SocketAddr, addresses: Box<Addresses>) -> Self {
        let socket = UdpSocket::bind(at).await.expect("a port");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut packet = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut packet).await {
                let Some((name, kind, end)) = question(&packet[..len]) else { continue };
                let look_up = {
                    let mut seen = seen.lock().expect("not poisoned");
                    // A resolver asks for both kinds at each look-up.
                    seen.push(format!("{name} {kind}"));
                    seen.iter().filter(|one| **one == format!("{name} {kind}")).count()
                };
                let found = addresses(&name, look_up);
                let fits = |ip: &&IpAddr| (kind == A && ip.is_ipv4()) || (kind == AAAA && ip.is_ipv6());
                let fitting: Vec<_> = found.iter().filter(fits).collect();
                let mut reply = packet[..2].to_vec();
                reply.extend([0x81, 0x80, 0, 1, 0, u8::try_from(fitting.len()).expect("few"), 0, 0, 0, 0]);
                reply.extend(&packet[12..end]);
                for ip in fitting {
                    // The name by pointer, its kind, class IN, no time to live.
                    reply.extend([0xc0, 12]);
                    reply.extend(kind.to_be_bytes());
                    reply.extend([0, 1, 0, 0, 0, 0]);
                    match ip {
                        IpAddr::V4(ip) => reply.extend([&[0, 4][..], &ip.octets()].concat()),
                        IpAddr::V6(ip) => reply.extend([&[0, 16][..], &ip.octets()].concat()),
                    }
                }
                let _ = socket.send_to(&reply, from).await;
            }
        });
        Self { asked }
    }

    /// How often the name was looked up.
    pub fn look_ups(&self, name: &str) -> usize {
        let wanted = format!("{name} {A}");
        self.asked.lock().expect("not poisoned").iter().filter(|one| **one == wanted).count()
    }
}

/// The name in a query, the kind that is asked for, and where the question ends.
fn question(packet: &[u8]) -> Option<(String, u16, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let len = usize::from(*packet.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + len)?).to_lowercase());
        at += len;
    }
    let kind = u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}
