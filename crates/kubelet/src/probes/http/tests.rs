//! Redirects and answers, against a server of this test.

use k8s_openapi::api::core::v1::HTTPHeader;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

fn get(path: &str, headers: &[(&str, &str)]) -> Request {
    let headers = headers.iter().map(|(n, v)| HTTPHeader { name: (*n).to_owned(), value: (*v).to_owned() }).collect();
    let action = HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::Int(80),
        http_headers: Some(headers),
        ..HTTPGetAction::default()
    };
    Request::of(&action, &Container::default(), "10.0.0.1", Sender::Probe).expect("the action is valid")
}

#[test]
fn redirects_stay_on_their_host() {
    for (from, location, to) in [
        ("/a/b?c=d", "/e", Some("http://10.0.0.1:80/e")),
        ("/a/b?c=d", "e f", Some("http://10.0.0.1:80/a/e%20f")),
        ("/a/b?c=d", "?g", Some("http://10.0.0.1:80/a/b?g")),
        ("/a/b?c=d", "#h", Some("http://10.0.0.1:80/a/b?c=d")),
        ("/a", "http://10.0.0.1:81/x#y", Some("http://10.0.0.1:81/x")),
        ("/a", "http://10.0.0.1", Some("http://10.0.0.1:80/")),
        ("/a", "https://10.0.0.1?x", Some("https://10.0.0.1:443/?x")),
        ("/a", "//10.0.0.1:8080", Some("http://10.0.0.1:8080/")),
        ("/a", "/to?url=http://10.0.0.2/", Some("http://10.0.0.1:80/to?url=http://10.0.0.2/")),
        ("/a", "http://10.0.0.2/", None),
        ("/a", "ftp://10.0.0.1/", None),
        ("/a", "http://[::/", None),
    ] {
        let next = get(from, &[("Host", "some.where")]).redirected(location);
        assert_eq!(next.as_ref().map(Request::url).as_deref(), to, "{location} from {from}");
        let host = next.map(|n| n.headers.contains_key(header::HOST));
        let relative = !location.starts_with("http") && !location.starts_with("//");
        assert!(host.is_none_or(|kept| kept == relative), "{location}: the Host header is kept where it still applies");
    }
}

#[test]
fn headers_are_those_of_the_action() {
    let agent = |r: &Request| r.headers.get(header::USER_AGENT).map(|v| v.to_str().unwrap_or_default().to_owned());
    let plain = get("x#y", &[]);
    assert_eq!(plain.path, "/x");
    assert_eq!(agent(&plain).as_deref(), Some("kube-probe/1.36"));
    assert_eq!(plain.headers.get(header::ACCEPT).map(HeaderValue::as_bytes), Some(b"*/*".as_slice()));
    let own = get("/", &[("user-agent", "me"), ("Accept", ""), ("X-Empty", ""), ("X-Two", "1"), ("X-Two", "2")]);
    assert_eq!(agent(&own).as_deref(), Some("me"));
    assert!(!own.headers.contains_key(header::ACCEPT) && own.headers.contains_key("x-empty"));
    assert_eq!(own.headers.get_all("x-two").iter().count(), 2);
}

/// Answers each connection by what `answer` makes of the first line; the port.
async fn server(answer: impl Fn(&str) -> String + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                let mut part = [0; 1024];
                match stream.read(&mut part).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => seen.extend_from_slice(&part[..n]),
                }
                // A greeting of TLS: a plain server does not understand it.
                if seen.first() == Some(&0x16) {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&seen);
            let _ = stream.write_all(answer(text.lines().next().unwrap_or_default()).as_bytes()).await;
        }
    });
    port
}

fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

async fn asked(port: u16, path: &str) -> Outcome {
    probe(&Request { host: "127.0.0.1".to_owned(), port, ..get(path, &[]) }, LIMIT).await
}

#[tokio::test]
async fn a_probe_follows_local_redirects_and_judges_where_they_lead() {
    let port = server(|line| match line.split(' ').nth(1).unwrap_or_default() {
        "/good" => answer(200, "", "ok"),
        "/bad" => answer(500, "", "secret"),
        "/to-good" => answer(302, "Location: /good\r\n", ""),
        "/to-bad" => answer(301, "Location: /bad\r\n", ""),
        "/away" => answer(307, "Location: http://0.0.0.0/bad\r\n", "gone"),
        "/nowhere" => answer(302, "", ""),
        "/round" => answer(302, "Location: /round\r\n", ""),
        _ => answer(404, "", ""),
    })
    .await;
    assert_eq!(asked(port, "/good").await, Outcome::Success);
    assert_eq!(asked(port, "/to-good").await, Outcome::Success);
    let failed = |code: u16| Outcome::Failure(format!("HTTP probe failed with statuscode: {code}"));
    assert_eq!(asked(port, "/to-bad").await, failed(500));
    assert_eq!(asked(port, "/none").await, failed(404));
    let warned = |body: &str| Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"));
    assert_eq!(asked(port, "/away").await, warned("gone"));
    assert_eq!(asked(port, "/nowhere").await, warned(""));
    assert_eq!(
        asked(port, "/round").await,
        Outcome::Failure(format!("Get \"http://127.0.0.1:{port}/round\": stopped after 10 redirects"))
    );
}

#[tokio::test]
async fn a_hook_takes_any_answer_and_asks_a_plain_server_without_tls() {
    let port = server(|line| match line.starts_with("GET /hook ") {
        true => answer(500, "", "no"),
        false => answer(400, "", "Client sent an HTTPS request to an HTTP server."),
    })
    .await;
    let request = Request { tls: true, host: "127.0.0.1".to_owned(), port, ..get("/hook", &[("Authorization", "a")]) };
    assert_eq!(hook(&request, LIMIT).await, Ok(()));
    let why = request.send(LIMIT).await.expect_err("the server speaks no TLS");
    assert_eq!(why, format!("Get \"https://127.0.0.1:{port}/hook\": http: server gave HTTP response to HTTPS client"));
    assert!(hook(&Request { port: 1, ..request }, LIMIT).await.is_err_and(|why| why.contains("connection refused")));
}
