//! OpenAPI as clients fetch it.

use http_body_util::BodyExt;
use serde_json::Value;

use crate::harness::{Cluster, cluster};

/// Status, headers by name, body (decompressed).
async fn fetch(c: &Cluster, url: &str, headers: &[(&str, &str)]) -> (u16, http::HeaderMap, Vec<u8>) {
    let response = c.raw("GET", url, b"", headers).await;
    let (code, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.into_body().collect().await.expect("body").to_bytes();
    let mut plain = Vec::new();
    if headers.get("content-encoding").is_some_and(|v| v == "gzip") {
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut plain).expect("gzip");
    } else {
        plain = bytes.to_vec();
    }
    (code, headers, plain)
}

#[tokio::test]
async fn version_3_is_an_index_of_documents_by_hash() {
    let c = cluster().await;
    let (_, index) = c.get("/openapi/v3").await;
    let paths = index["paths"].as_object().expect("paths");
    for address in ["api", "apis", "apis/apps", "api/v1", "apis/apps/v1", "version", ".well-known/openid-configuration"]
    {
        let url = paths[address]["serverRelativeURL"].as_str().expect(address);
        let (at, hash) = url.split_once("?hash=").expect("a hash");
        assert_eq!(at, format!("/openapi/v3/{address}"));
        let (code, headers, body) = fetch(&c, url, &[("accept-encoding", "gzip")]).await;
        assert_eq!((code, headers["content-type"].as_bytes()), (200, &b"application/json"[..]), "{address}");
        assert_eq!(headers["cache-control"], "public, immutable");
        assert!(headers.contains_key("expires"));
        let tag = headers["etag"].to_str().expect("a tag").to_owned();
        assert_eq!(tag, format!("\"{hash}\""));
        let document: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(document["openapi"], "3.0.0", "{address}");
        assert!(document["paths"].as_object().is_some_and(|p| !p.is_empty()), "{address}");
        // Without compression it is the same.
        assert_eq!(fetch(&c, at, &[]).await.2, body);
        let (code, _, body) = fetch(&c, at, &[("if-none-match", &tag)]).await;
        assert_eq!((code, body.len()), (304, 0));
        let (code, headers, _) = fetch(&c, &format!("{at}?hash=OLD"), &[]).await;
        assert_eq!((code, headers["location"].to_str().expect("text")), (301, url));
    }
    assert_eq!(fetch(&c, "/openapi/v3/apis/none/v1", &[]).await.0, 404);
    assert_eq!(fetch(&c, "/openapi/v3/api/v1", &[("accept", "text/html")]).await.0, 406);
}

#[tokio::test]
async fn version_3_comes_in_protobuf_too() {
    let c = cluster().await;
    let (_, index) = c.get("/openapi/v3").await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("an address");
    let media = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
    for accept in ["application/com.github.proto-openapi.spec.v3@v1.0+protobuf", media] {
        for url in [url, "/openapi/v3/version"] {
            let (code, headers, body) = fetch(&c, url, &[("accept", accept)]).await;
            assert_eq!((code, headers["content-type"].to_str().expect("text")), (200, media), "{url}");
            assert!(body.starts_with(b"\x0a\x053.0.0"), "field 1 is the version");
        }
    }
    // The forms are kept apart.
    assert!(fetch(&c, url, &[]).await.2.starts_with(b"{"));
}

#[tokio::test]
async fn version_2_comes_in_json_and_in_protobuf() {
    let c = cluster().await;
    let (code, headers, body) = fetch(&c, "/openapi/v2", &[("accept-encoding", "gzip")]).await;
    assert_eq!((code, headers["content-type"].as_bytes()), (200, &b"application/json"[..]));
    let document: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(document["swagger"], "2.0");
    assert!(document["definitions"]["io.k8s.api.apps.v1.Deployment"].is_object());
    let tag = headers["etag"].to_str().expect("a tag").to_owned();
    assert_eq!(fetch(&c, "/openapi/v2", &[("if-none-match", &tag)]).await.0, 304);
    for accept in [
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf,application/json;q=0.5",
    ] {
        let (code, headers, body) = fetch(&c, "/openapi/v2", &[("accept", accept)]).await;
        let media = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        assert_eq!((code, headers["content-type"].to_str().expect("text")), (200, media));
        assert!(body.starts_with(b"\x0a\x032.0"), "field 1 is the version");
    }
    assert_eq!(fetch(&c, "/openapi/v2", &[("accept", "text/html")]).await.0, 406);
}
