//! Connections under TLS: handshakes that succeed, fail, stall or are none, certificates exchanged under
//! traffic, and a byte stream whose last record is never left behind.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::server::ByteDoor;
use super::{Gate, until, within};
use crate::{Limits, Server, ServerConfig, SocketListener, Tls, TlsFiles};

/// An authority of the test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key for a name, in PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn files(&self) -> TlsFiles {
        let (certificate, key) = self.issue("localhost");
        TlsFiles {
            certificates: certificate.into(),
            key: key.into(),
            client_authorities: None,
            clients_optional: false,
        }
    }

    /// A client that trusts this authority, and shows a certificate where it has one.
    fn client(&self, own: Option<(String, String)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![rustls_pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        TlsConnector::from(Arc::new(config))
    }
}

struct Stand {
    server: Server,
    address: SocketAddr,
    tls: Arc<Tls>,
}

impl Stand {
    fn new(files: &TlsFiles, limits: Limits) -> Self {
        let server = Server::start(ServerConfig { limits, cores: Some(2) }).unwrap();
        let tls = Tls::new(files).unwrap();
        let listeners = SocketListener::bind_tcp("127.0.0.1:0", server.cores(), server.metrics()).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let listeners = listeners.into_iter().map(|listener| listener.with_tls(tls.clone())).collect();
        server.listen(Arc::new(ByteDoor(Gate::new())), listeners);
        Self { server, address, tls }
    }

    async fn connect(&self, client: &TlsConnector, name: &str) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        within(client.connect(ServerName::try_from(name.to_owned()).unwrap(), stream)).await
    }

    async fn ended(&self, reason: &str, count: u64) {
        let counted = || self.server.metrics().snapshot().closed_by_reason.get(reason).copied().unwrap_or(0);
        until(&format!("{count} ended as {reason}"), || counted() >= count).await;
    }
}

async fn ask(stream: &mut TlsStream<TcpStream>, byte: u8) -> io::Result<u8> {
    stream.write_all(&[byte]).await?;
    stream.flush().await?;
    within(stream.read_u8()).await
}

#[tokio::test]
async fn bytes_go_through_and_the_last_record_is_not_left_behind() {
    let authority = Authority::new();
    let stand = Stand::new(&authority.files(), Limits::default());
    let mut stream = stand.connect(&authority.client(None), "localhost").await.unwrap();
    assert_eq!(ask(&mut stream, b'e').await.unwrap(), b'e');
    // A flood that the socket can't take at once, written by a door that never flushes.
    stream.write_all(b"f").await.unwrap();
    let mut flood = vec![0; (4 << 20) + 1];
    within(stream.read_exact(&mut flood)).await.unwrap();
    assert!(flood.iter().all(|byte| *byte == b'f'));
    assert_eq!(ask(&mut stream, b'e').await.unwrap(), b'e');
    stream.shutdown().await.unwrap();
    stand.ended("peer_closed", 1).await;
    // Without a goodbye.
    let mut stream = stand.connect(&authority.client(None), "localhost").await.unwrap();
    assert_eq!(ask(&mut stream, b'e').await.unwrap(), b'e');
    drop(stream);
    stand.ended("peer_closed", 2).await;
    assert!(within(stand.server.stop()).await.clean);
}

#[tokio::test]
async fn who_speaks_without_tls_is_told_so() {
    let stand = Stand::new(&Authority::new().files(), Limits::default());
    let mut plain = TcpStream::connect(stand.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut told = vec![0; "plaintext".len()];
    within(plain.read_exact(&mut told)).await.unwrap();
    assert_eq!(told, b"plaintext");
    stand.ended("refused", 1).await;
    assert!(within(stand.server.stop()).await.clean);
}

#[tokio::test]
async fn half_open_handshakes_are_cut_and_stand_in_nobodys_way() {
    const CROWD: usize = 2_000;
    let authority = Authority::new();
    let stand = Stand::new(&authority.files(), Limits { tls_handshake_ms_max: 1_500, ..Limits::default() });
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut stream = TcpStream::connect(stand.address).await.unwrap();
        match number % 3 {
            // Nothing at all; the beginning of a record; a record of garbage, which fails at once.
            0 => {}
            1 => stream.write_all(&[22, 3, 1, 2, 0]).await.unwrap(),
            _ => stream.write_all(&[22; 700]).await.unwrap(),
        }
        crowd.push(stream);
    }
    let begun = Instant::now();
    let mut stream = stand.connect(&authority.client(None), "localhost").await.unwrap();
    assert_eq!(ask(&mut stream, b'e').await.unwrap(), b'e');
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    stand.ended("handshake_failed", CROWD as u64).await;
    assert_eq!(ask(&mut stream, b'e').await.unwrap(), b'e');
    drop((stream, crowd));
    assert!(within(stand.server.stop()).await.clean);
}

#[tokio::test]
async fn clients_show_a_certificate_where_they_must() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let demand = |optional| TlsFiles {
        client_authorities: Some(clients.0.pem().into()),
        clients_optional: optional,
        ..authority.files()
    };
    for (optional, own, expected) in [
        (false, Some(clients.issue("ann")), true),
        (false, Some(strangers.issue("eve")), false),
        (false, None, false),
        (true, None, true),
        (true, Some(clients.issue("ann")), true),
        (true, Some(strangers.issue("eve")), false),
    ] {
        let stand = Stand::new(&demand(optional), Limits::default());
        let shown = own.is_some();
        let answer = match stand.connect(&authority.client(own), "localhost").await {
            // A client of TLS 1.3 hears of its refusal with the first byte it reads.
            Ok(mut stream) => ask(&mut stream, b'e').await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(answer, expected, "optional: {optional}, shown: {shown}");
        if !expected {
            stand.ended("handshake_failed", 1).await;
        }
        assert!(within(stand.server.stop()).await.clean);
    }
}

#[tokio::test]
async fn certificates_are_exchanged_under_traffic() {
    let (old, new) = (Authority::new(), Authority::new());
    let stand = Stand::new(&old.files(), Limits::default());
    let mut before = stand.connect(&old.client(None), "localhost").await.unwrap();
    assert_eq!(ask(&mut before, b'e').await.unwrap(), b'e');
    assert!(stand.connect(&new.client(None), "localhost").await.is_err(), "not trusted yet");
    // What can't be used changes nothing.
    let (certificate, _) = new.issue("localhost");
    let mixed = TlsFiles { certificates: certificate.into(), ..old.files() };
    assert!(stand.tls.reload(&mixed).unwrap_err().to_string().contains("is not the one of the certificate"));
    stand.tls.reload(&new.files()).unwrap();
    let mut after = stand.connect(&new.client(None), "localhost").await.unwrap();
    assert!(stand.connect(&old.client(None), "localhost").await.is_err(), "not trusted any more");
    assert!(stand.connect(&new.client(None), "elsewhere").await.is_err(), "another name");
    for stream in [&mut before, &mut after] {
        assert_eq!(ask(stream, b'e').await.unwrap(), b'e');
    }
    drop((before, after));
    assert!(within(stand.server.stop()).await.clean);
}

#[test]
fn files_that_are_none_are_refused() {
    let authority = Authority::new();
    let good = authority.files();
    let check = |files: TlsFiles, expected: &str| {
        let told = Tls::new(&files).unwrap_err().to_string();
        assert!(told.contains(expected), "{told:?} lacks {expected:?}");
    };
    check(TlsFiles { certificates: Vec::new(), ..good.clone() }, "holds no certificate");
    check(TlsFiles { certificates: b"garbage".to_vec(), ..good.clone() }, "holds no certificate");
    check(TlsFiles { key: Vec::new(), ..good.clone() }, "key file");
    check(TlsFiles { key: good.certificates.clone(), ..good.clone() }, "key file");
    check(TlsFiles { certificates: good.key.clone(), ..good.clone() }, "holds no certificate");
    check(TlsFiles { client_authorities: Some(Vec::new()), ..good.clone() }, "client authorities file");
    check(TlsFiles { key: authority.issue("localhost").1.into(), ..good }, "is not the one of the certificate");
}
