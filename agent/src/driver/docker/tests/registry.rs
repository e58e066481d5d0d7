//! A pull from a registry of the test's own: one image, with one empty layer.

use moorline_common::id::{OpId, ResourceId, sha256_hex};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// An image as a registry has it: its parts by the end of their paths.
struct Image {
    config: Vec<u8>,
    layer: Vec<u8>,
    manifest: Vec<u8>,
}

impl Image {
    fn new() -> Self {
        // The end of an archive, and nothing before it.
        let layer = vec![0; 1024];
        let digest = |bytes: &[u8]| format!("sha256:{}", sha256_hex(bytes));
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
            "history": [{ "created_by": "a test" }]
        });
        let config = config.to_string().into_bytes();
        let part = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": kind, "size": bytes.len(), "digest": digest(bytes) });
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": part("application/vnd.docker.container.image.v1+json", &config),
            "layers": [part("application/vnd.docker.image.rootfs.diff.tar.gzip", &layer)]
        });
        Self { manifest: manifest.to_string().into_bytes(), config, layer }
    }

    /// What a path names, and its type.
    fn part(&self, path: &str) -> Option<(&[u8], &'static str)> {
        if path == "/v2/" {
            return Some((b"{}", "application/json"));
        }
        if path.contains("/manifests/") {
            let known = path.ends_with("/1") || path.ends_with(&sha256_hex(&self.manifest));
            return known.then_some((self.manifest.as_slice(), "application/vnd.docker.distribution.manifest.v2+json"));
        }
        [&self.config, &self.layer].into_iter().find(|b| path.ends_with(&sha256_hex(b))).map(|b| (b.as_slice(), "application/octet-stream"))
    }
}

async fn serve(stream: TcpStream, image: &Image) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut request, mut line) = (String::new(), String::new());
        // Engines try TLS first: that is no text.
        while stream.read_line(&mut line).await? > 2 {
            if request.is_empty() {
                request = line.clone();
            }
            line.clear();
        }
        let mut words = request.split_whitespace();
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
        let (status, body, kind) = image.part(path).map_or((404, b"{}".as_slice(), "application/json"), |(b, kind)| (200, b, kind));
        let head = format!(
            "HTTP/1.1 {status} X\r\nDocker-Distribution-Api-Version: registry/2.0\r\nDocker-Content-Digest: sha256:{}\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            sha256_hex(body),
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        if method != "HEAD" {
            stream.write_all(body).await?;
        }
        stream.flush().await?;
    }
}

#[tokio::test]
async fn an_image_is_pulled_and_pulling_it_again_is_success() {
    with_bench(|bench| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("127.0.0.1:{}/{}:1", listener.local_addr().unwrap().port(), bench.unique);
        let image = std::sync::Arc::new(Image::new());
        let _registry = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let image = std::sync::Arc::clone(&image);
                tokio::spawn(async move { serve(stream, &image).await });
            }
        }));
        let mut was: Option<String> = None;
        for _ in 0..2 {
            let ordered = OpOrder {
                op_id: OpId::parse(uuid::Uuid::now_v7().to_string()).unwrap(),
                resource: ResourceId::parse(format!("docker/image/{name}")).unwrap(),
                incarnation: was.clone(),
                state: None,
                act: Act::Pull,
                wanted: BTreeSet::new(),
            };
            let evidence = bench.driver.prepare(&ordered).await.unwrap();
            assert_eq!(evidence["id"].as_str(), was.as_deref());
            let Begun::Done(done) = bench.driver.start(&ordered, &evidence).await.unwrap() else { panic!("a pull is no task") };
            assert_eq!(done.fault, None);
            let id = done.result["id"].as_str().unwrap().to_owned();
            assert!(was.is_none_or(|was| was == id), "the same image came again");
            was = Some(id);
        }
        let gone = bench.docker.remove_image(&name, None::<RemoveImageOptions>, None).await;
        gone.unwrap();
    })
    .await;
}
