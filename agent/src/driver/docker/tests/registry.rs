//! A pull from a registry of the test's own: one image, with one empty layer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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

async fn serve(stream: TcpStream, image: &Image, asked: &AtomicUsize) -> std::io::Result<()> {
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
        if path.contains("/manifests/") {
            asked.fetch_add(1, Ordering::SeqCst);
        }
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

/// Runs as long as it is held.
struct Registry {
    /// The image that it has.
    name: String,
    /// How often that was asked for.
    asked: Arc<AtomicUsize>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Registry {
    async fn start(unique: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("127.0.0.1:{}/{unique}:1", listener.local_addr().unwrap().port());
        let (image, asked) = (Arc::new(Image::new()), Arc::<AtomicUsize>::default());
        let count = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (image, count) = (image.clone(), count.clone());
                tokio::spawn(async move { serve(stream, &image, &count).await });
            }
        });
        Self { name, asked, _task: tokio_util::task::AbortOnDropHandle::new(task) }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn an_image_is_pulled_when_its_service_says() {
    with_bench(|bench| async move {
        let registry = Registry::start(&bench.unique).await;
        let make = async |policy: &str| {
            let service = serde_json::json!({ "image": registry.name, "command": ["/nothing"], "pull_policy": policy });
            let desired: HostSpec = serde_json::from_value(serde_json::json!({ "docker": { "services": { "pulled": service } } })).unwrap();
            let observed = bench.driver.observe().await.unwrap();
            let mut error = None;
            for step in plan(&bench.identity(), &desired, &observed).steps {
                error = bench.driver.apply(&step).await.err();
            }
            let name = format!("{}-pulled-1", bench.unique);
            let made = bench.driver.observe().await.unwrap().containers.contains_key(&name);
            if made {
                bench.by_hand(ByHand::Remove(&name)).await;
            }
            (made, error.unwrap())
        };
        let (made, error) = make("never").await;
        assert!(!made && error.code == Code::ImageUnavailable && error.message.contains("`pull_policy` is `never`"), "{error:?}");
        assert_eq!(registry.asked(), 0);
        // There is no program in the image: it is made, and does not start.
        assert!(make("missing").await.0);
        let asked = registry.asked();
        assert!(asked > 0 && make("missing").await.0 && make("never").await.0);
        assert_eq!(registry.asked(), asked);
        assert!(make("always").await.0);
        assert!(registry.asked() > asked);
        bench.docker.remove_image(&registry.name, None::<RemoveImageOptions>, None).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_image_is_pulled_and_pulling_it_again_is_success() {
    with_bench(|bench| async move {
        let registry = Registry::start(&bench.unique).await;
        let name = &registry.name;
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
        let gone = bench.docker.remove_image(name, None::<RemoveImageOptions>, None).await;
        gone.unwrap();
    })
    .await;
}
