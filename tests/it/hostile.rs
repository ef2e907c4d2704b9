//! Bad credentials and bad bytes against the running binary: a clear answer each time, no panic, nothing leaked.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use orkd_pki::cert::{Identity, Usage};
use orkd_pki::jwt::{Claims, Kubernetes, Reference, Signer};
use orkd_pki::{Authority, Key, Profile};
use orkd_tests::client::Credential;
use orkd_tests::cluster::Cluster;
use orkd_tests::{eventually, is_root};
use rand::RngCore;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const API: &str = "127.0.0.1:6443";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The longest of the small requests.
const SMALL: usize = 64 << 10;

/// A request and what must come of it.
struct Case {
    what: &'static str,
    request: Vec<u8>,
    code: u16,
    /// Part of the answer.
    says: &'static str,
}

fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: orkd\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn post(kind: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    request("POST", MAPS, &format!("Content-Type: {kind}\r\n"), body.as_ref())
}

fn patch(kind: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let path = format!("{MAPS}/kube-root-ca.crt?fieldManager=test");
    request("PATCH", &path, &format!("Content-Type: {kind}\r\n"), body.as_ref())
}

fn get(path: &str) -> Vec<u8> {
    request("GET", path, "", b"")
}

fn cases() -> Vec<Case> {
    let case = |what, request, code, says| Case { what, request, code, says };
    let map = |name: &str, size: usize| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "x".repeat(size)}})
            .to_string()
    };
    let large = map("large", 10 << 20);
    let mut chunked = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: orkd\r\nConnection: close\r\nContent-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for part in large.as_bytes().chunks(1 << 20) {
        chunked.extend(format!("{:x}\r\n", part.len()).bytes());
        chunked.extend(part);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let bomb: String = (0..40)
        .map(|i| match i {
            0 => "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(),
            i => format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(",")),
        })
        .collect();
    let many: Vec<Value> = (0..10_001).map(|_| json!({"op": "test", "path": "/kind", "value": "ConfigMap"})).collect();
    let mut noise = vec![0u8; 4096];
    rand::rng().fill_bytes(&mut noise);
    let magic = [b"k8s\0".as_slice(), &noise].concat();
    let too_large = "limit is 3145728";
    vec![
        case("10 MB", post(JSON, &large), 413, too_large),
        case("10 MB in chunks", chunked, 413, too_large),
        case("10 MB as a patch", patch("application/merge-patch+json", &large), 413, too_large),
        case("a value too large for the kind", post(JSON, map("big", 2 << 20)), 422, "Too long"),
        case("brackets", post(JSON, "[".repeat(200_000)), 400, "BadRequest"),
        case(
            "nested objects",
            post(JSON, format!("{{\"metadata\":{{\"name\":\"a\"}},\"data\":{}", "{\"a\":".repeat(200_000))),
            400,
            "BadRequest",
        ),
        case(
            "closed nested arrays",
            post(JSON, format!("{{\"data\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000))),
            400,
            "BadRequest",
        ),
        case("nested YAML", post(YAML, "[".repeat(100_000)), 400, "BadRequest"),
        case("nested YAML blocks", post(YAML, "- ".repeat(100_000)), 400, "BadRequest"),
        case("a YAML bomb", post(YAML, &bomb), 400, "BadRequest"),
        case("nested YAML to apply", patch("application/apply-patch+yaml", "{a: ".repeat(50_000)), 400, "BadRequest"),
        case("noise as JSON", post(JSON, &noise), 400, "BadRequest"),
        case("noise as YAML", post(YAML, &noise), 400, "BadRequest"),
        case("noise as protobuf", post(PROTOBUF, &magic), 400, "BadRequest"),
        case("protobuf without its magic", post(PROTOBUF, &noise), 400, "does not appear to be a protobuf message"),
        case("protobuf cut short", post(PROTOBUF, b"k8s\0\x0a\xff\xff\xff\xff\x0f"), 400, "BadRequest"),
        case("no body", post(JSON, ""), 400, "BadRequest"),
        case("half a body", post(JSON, "{\"metadata\":{\"name\":\"a\""), 400, "BadRequest"),
        case("no UTF-8", post(JSON, b"{\"metadata\":{\"name\":\"\xff\xfe\"}}"), 422, "a lowercase RFC 1123 subdomain"),
        case("not an object", post(JSON, "42"), 400, "BadRequest"),
        case("another kind", post(JSON, "{\"apiVersion\":\"v1\",\"kind\":\"Secret\"}"), 400, "BadRequest"),
        case("plain text", post("text/plain", "hello"), 415, "accepted media types include"),
        case("no type that parses", post("a/b/c; x", "{}"), 415, "accepted media types include"),
        case("a patch as JSON", patch(JSON, "{}"), 415, "UnsupportedMediaType"),
        case("a patch that is none", patch("application/json-patch+json", "{\"a\":1}"), 400, "BadRequest"),
        case(
            "a patch of too many parts",
            patch("application/json-patch+json", Value::from(many).to_string()),
            413,
            "maximum operations in a JSON patch is 10000, got 10001",
        ),
        case("a limit that is none", get(&format!("{MAPS}?limit=abc")), 400, "BadRequest"),
        case("a revision that is none", get(&format!("{MAPS}?resourceVersion=zz")), 400, "zz"),
        case("a selector that is none", get(&format!("{MAPS}?labelSelector=a%20in%20(")), 400, "BadRequest"),
        case("a continuation that is none", get(&format!("{MAPS}?limit=1&continue=%21")), 400, "BadRequest"),
        case("a path of dots", get("/api/v1/namespaces/default/configmaps/..%2f..%2fx"), 404, "NotFound"),
        case("a method that is none", request("BREW", MAPS, "", b""), 405, "MethodNotAllowed"),
        case("no request line", b"\x01\x02\x03 hello\r\n\r\n".to_vec(), 400, ""),
        case("a header without a name", request("GET", MAPS, ": x\r\n", b""), 400, ""),
        case("two lengths", request("POST", MAPS, "Content-Length: 3\r\n", b"{}"), 400, ""),
        case("heads of 2 MB", request("GET", MAPS, &format!("X-A: {}\r\n", "a".repeat(2 << 20)), b""), 431, ""),
        case("a URL of 2 MB", get(&format!("{MAPS}?a={}", "a".repeat(2 << 20))), 431, ""),
        case(
            "an impersonation of nobody",
            request("GET", MAPS, "Impersonate-Group: system:masters\r\n", b""),
            400,
            "without impersonating a user",
        ),
    ]
}

/// Code and body of an answer.
fn parsed(answer: &str) -> Result<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer:?}"))?;
    let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).with_context(|| format!("{head:?}"))?;
    Ok((code, body))
}

fn short(text: &str) -> String {
    text.chars().take(600).collect()
}

async fn bodies(admin: &Credential, most: usize) -> Result<()> {
    let mut wrong = Vec::new();
    for case in cases().into_iter().filter(|c| c.request.len() <= most) {
        let answer = admin.ask(&case.request).await.with_context(|| case.what)?;
        match parsed(&answer) {
            Ok((code, body)) if code == case.code && body.contains(case.says) => {}
            _ => wrong.push(format!("{}: expected {} {:?}, got {}", case.what, case.code, case.says, short(&answer))),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Who comes with what, and is not let in.
struct Impostors {
    certificates: Vec<(&'static str, Identity)>,
    tokens: Vec<(&'static str, String)>,
}

fn impostors(tls: &Path) -> Result<Impostors> {
    let read = |name: &str| std::fs::read_to_string(tls.join(name));
    let authority = |name: &str| -> Result<Authority> {
        Ok(Authority::from_pem(&read(&format!("{name}.crt"))?, &read(&format!("{name}.key"))?)?)
    };
    let now = Timestamp::now();
    let (ours, foreign) = (authority("ca")?, Authority::create("orkd-ca", now)?);
    let admin = Profile::client("orkd-admin", &["system:masters"]);
    let expired = Profile { lifetime: SignedDuration::from_secs(-30), ..admin.clone() };
    let server = Profile { usage: Usage::SERVER, ..admin.clone() };
    let certificates = vec![
        ("expired", ours.issue(&expired, now)?),
        ("of another authority of the same name", foreign.issue(&admin, now)?),
        ("of the front proxies' authority", authority("front-proxy-ca")?.issue(&admin, now)?),
        ("of a server", ours.issue(&server, now)?),
        ("not valid yet", ours.issue(&admin, now + SignedDuration::from_hours(1))?),
    ];
    let key = Key::from_pem(&read("sa.key")?)?;
    let issuer = "https://kubernetes.default.svc.cluster.local";
    let account = |name: &str, uid: &str, expires: i64| Claims {
        aud: vec![issuer.into()],
        exp: Some(now.as_second() + expires),
        iat: Some(now.as_second() - 7200),
        nbf: Some(now.as_second() - 7200),
        sub: format!("system:serviceaccount:default:{name}"),
        kubernetes: Kubernetes {
            namespace: "default".into(),
            serviceaccount: Reference { name: name.into(), uid: uid.into() },
            ..Kubernetes::default()
        },
        ..Claims::default()
    };
    let (signer, forger) = (Signer::new(&key, issuer)?, Signer::new(&Key::generate()?, issuer)?);
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = serde_json::to_value(Claims { iss: issuer.into(), ..account("default", "x", 3600) })?;
    let tokens = vec![
        ("expired", signer.sign(account("default", "x", -3600))?),
        ("of another account of that name", signer.sign(account("default", "x", 3600))?),
        ("of an account that is not", signer.sign(account("nobody", "x", 3600))?),
        ("forged", forger.sign(account("default", "x", 3600))?),
        ("not signed", format!("{}.{}.", part(json!({"alg": "none"})), part(claims))),
        ("an expired bootstrap token", "abcdef.0123456789abcdef".into()),
        ("an unknown bootstrap token", "fedcba.0123456789abcdef".into()),
        ("noise", "a.b.c".into()),
        ("too long", "x".repeat(100_000)),
    ];
    Ok(Impostors { certificates, tokens })
}

fn unauthorized(what: &str, answer: &str) -> Result<()> {
    let (code, body) = parsed(answer).with_context(|| what.to_owned())?;
    let status: Value = serde_json::from_str(body).with_context(|| format!("{what}: {}", short(answer)))?;
    ensure!(
        code == 401 && status["reason"] == "Unauthorized" && status["kind"] == "Status",
        "{what}: {}",
        short(answer)
    );
    Ok(())
}

async fn strangers(admin: &Path, tls: &Path, kubelet: SocketAddr) -> Result<()> {
    let Impostors { certificates, tokens } = impostors(tls)?;
    for (what, identity) in certificates {
        let stranger = Credential::of(admin)?.with(Some(identity));
        unauthorized(what, &stranger.ask(&get(MAPS)).await.with_context(|| what)?)?;
        let answer = stranger.at(kubelet).ask(&get("/pods")).await?;
        let (code, _) = parsed(&answer)?;
        ensure!(code == 401, "{what}: the kubelet answers {code}");
    }
    let nobody = Credential::of(admin)?.with(None);
    for (what, token) in tokens {
        let header = format!("Authorization: Bearer {token}\r\n");
        unauthorized(what, &nobody.ask(&request("GET", MAPS, &header, b"")).await.with_context(|| what)?)?;
    }
    // Without a credential there is health and nothing else.
    let answer = nobody.ask(&get(MAPS)).await?;
    let (code, body) = parsed(&answer)?;
    ensure!(code == 403 && body.contains("User \\\"system:anonymous\\\" cannot list"), "{}", short(&answer));
    let health = nobody.ask(&get("/livez")).await?;
    ensure!(parsed(&health)? == (200, "ok"), "{}", short(&health));
    Ok(())
}

/// Says something to a socket without TLS; what comes back until the other side ends.
async fn say(address: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let exchange = async {
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(Duration::from_secs(20), exchange).await.context("the server does not end the connection")
}

async fn handshakes(kubelet: &str) -> Result<()> {
    let plain = String::from_utf8(say(API, b"GET /api HTTP/1.1\r\nHost: orkd\r\n\r\n").await?)?;
    ensure!(plain.starts_with("HTTP/1.0 400 Bad Request\r\n"), "{plain:?}");
    ensure!(plain.ends_with("Client sent an HTTP request to an HTTPS server.\n"), "{plain:?}");
    let mut noise = vec![0u8; 4096];
    rand::rng().fill_bytes(&mut noise);
    // A record of a hello that is noise; one longer than records may be; one of an old version.
    let hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &noise[..506]].concat();
    let long = [b"\x16\x03\x01\xff\xff".as_slice(), &noise].concat();
    let old = b"\x16\x03\x00\x00\x2f\x01\x00\x00\x2b\x03\x00".to_vec();
    for address in [API, kubelet] {
        for bytes in [&noise, &hello, &long] {
            // An alert of TLS, or an end: nothing else.
            let answer = say(address, bytes).await?;
            ensure!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
        }
        // Cut off in the middle.
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&old).await?;
        drop(stream);
    }
    Ok(())
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

async fn frames(admin: &Credential) -> Result<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = frame(4, 0, 0, &[]);
    let mut noise = vec![0u8; 16 << 10];
    rand::rng().fill_bytes(&mut noise);
    // GET / with static fields of HPACK, which ends its stream.
    let ask = |stream| frame(1, 5, stream, &[0x82, 0x84, 0x87, 0x41, 0x01, b'a']);
    let resets: Vec<u8> =
        (0..2000u32).flat_map(|i| [ask(2 * i + 1), frame(3, 0, 2 * i + 1, &[0, 0, 0, 8])].concat()).collect();
    let continued: Vec<u8> = (0..2000).flat_map(|_| frame(9, 0, 1, &noise[..1024])).collect();
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("noise", noise.clone()),
        ("a frame longer than allowed", frame(0, 0, 1, &vec![0; 1 << 20])),
        ("data of no stream", frame(0, 0, 7, b"x")),
        ("settings that are none", frame(4, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        (
            "a window that overflows",
            [frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])].concat(),
        ),
        ("fields that do not decode", frame(1, 5, 1, &[0xff; 64])),
        ("fields without an end", [frame(1, 0, 1, &[0x82]), continued].concat()),
        ("streams that are reset at once", resets),
        ("pings without an end", (0..20_000).flat_map(|_| frame(6, 0, 0, &[1; 8])).collect()),
    ];
    for (what, attack) in attacks {
        let mut stream = admin.connect(&[b"h2"]).await?;
        let exchange = async {
            let _ = stream.write_all(&[PREFACE, &settings, &attack].concat()).await;
            let _ = stream.shutdown().await;
            let mut buffer = [0; 16 << 10];
            while let Ok(1..) = stream.read(&mut buffer).await {}
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), exchange).await;
        ended.with_context(|| format!("{what}: the server does not end the connection"))?;
    }
    Ok(())
}

/// Resident memory in KiB, and open files.
fn resources(pid: i32) -> Result<(u64, usize)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok((resident.context("VmRSS")?, files))
}

#[test]
fn bad_bytes_and_bad_credentials_get_a_clear_answer_and_leak_nothing() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut cluster = Cluster::node(&[])?;
    cluster.kubectl()?.apply(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: bootstrap-token-abcdef, namespace: kube-system}\ntype: \
         bootstrap.kubernetes.io/token\nstringData: {token-id: abcdef, token-secret: 0123456789abcdef, \
         usage-bootstrap-authentication: 'true', expiration: '2020-01-01T00:00:00Z'}\n",
    )?;
    let pid = cluster.server.as_ref().context("it runs")?.pid();
    let first = resources(pid)?;
    let mut before = first;
    // Large requests first: what the allocator keeps of them goes up and down. Then many small ones, of which nothing
    // may stay.
    let (large, small) = if std::env::var_os("ORKD_LONG").is_some() { (12, 400) } else { (4, 40) };
    for round in 1..=large + small {
        let (admin, tls) = (cluster.kubeconfig(), cluster.machine.path("data/server/tls"));
        let kubelet = SocketAddr::from((cluster.machine.ip, 10250));
        let most = if round > large { SMALL } else { usize::MAX };
        let result = cluster.machine.inside(move || async move {
            let credential = Credential::of(&admin)?;
            bodies(&credential, most).await.context("bodies")?;
            strangers(&admin, &tls, kubelet).await.context("credentials")?;
            handshakes(&kubelet.to_string()).await.context("TLS")?;
            frames(&credential).await.context("HTTP/2")?;
            let answer = credential.ask(&get("/readyz")).await?;
            let (code, body) = parsed(&answer)?;
            ensure!(code == 200 && body == "ok", "{code} {body}");
            Ok(())
        });
        result.with_context(|| format!("round {round}: {}", cluster.log()))?;
        let server = cluster.server.as_mut().context("it runs")?;
        ensure!(!server.has_ended() && server.pid() == pid, "orkd has ended:\n{}", server.tail(30));
        // The first of the small ones still settle what the large ones left.
        if round == large + small / 4 {
            before = settled(pid, usize::MAX)?;
        }
    }
    // The allocator gives back what it keeps while there is work, not at once.
    let after = eventually("what requests took to be given back", Duration::from_secs(60), || {
        let k = cluster.kubectl().map_err(|e| e.to_string())?;
        k.ok("get --raw /readyz").map_err(|e| e.to_string())?;
        let now = settled(pid, before.1).map_err(|e| e.to_string())?;
        if now.0 < before.0 + (8 << 10) { Ok(now) } else { Err(format!("{now:?} after {before:?}")) }
    })?;
    println!("at first {first:?}, then {before:?}, in the end {after:?} (KiB resident, files open)");
    ensure!(before.0 < first.0 + (160 << 10), "large requests leave {} KiB of {}", before.0, first.0);
    let log = std::fs::read_to_string(&cluster.server.as_ref().context("it runs")?.log)?;
    ensure!(!log.contains("panicked"), "{}", log.lines().filter(|l| l.contains("panicked")).collect::<String>());
    cluster.kubectl()?.ok("create configmap fine")?;
    Ok(())
}

/// What is in use once connections that end have ended: no more than `files` open.
fn settled(pid: i32, files: usize) -> Result<(u64, usize)> {
    if files == usize::MAX {
        // The level is not known yet: the same twice in a row, a second apart, is one.
        let mut last = resources(pid)?;
        return eventually("the number of open files to settle", Duration::from_secs(60), || {
            std::thread::sleep(Duration::from_secs(1));
            let now = resources(pid).map_err(|e| e.to_string())?;
            let same = now.1 == last.1;
            last = now;
            if same { Ok(now) } else { Err(format!("{now:?}")) }
        });
    }
    eventually("open files to be closed", Duration::from_secs(60), || {
        let now = resources(pid).map_err(|e| e.to_string())?;
        if now.1 <= files + 4 { Ok(now) } else { Err(format!("{now:?}, before {files}")) }
    })
}
