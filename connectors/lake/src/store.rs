//! Local disk, S3, Azure, Google and HDFS, by one interface; what is asked of a store before it is trusted.
//!
//! Invariants: what is put on a local disk is synced before it counts; an object that must not be there yet is put with the store's own condition, and
//! a store that takes the condition and ignores it is found by a probe.

use crate::config::{Cloud, Place};
use futures_util::StreamExt;
use millrace_kit::parts::TargetError;
use object_store::aws::{AmazonS3Builder, AwsCredentialProvider};
use object_store::azure::{AzureCredentialProvider, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredential, GcpCredentialProvider, GoogleCloudStorageBuilder};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
    StaticCredentialProvider,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How long one request may take, and all its repetitions.
const REQUEST: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(40);

/// What a store's error means: wait, or ask a person.
pub fn failed(what: impl std::fmt::Display, error: &Error) -> TargetError {
    let text = format!("{what}: {}", chain(error));
    match error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::NotSupported { .. } | Error::NotImplemented { .. } => {
            TargetError::Refused(text)
        }
        // S3 says so of a bucket; an object that is missing is met where it is looked for.
        Error::NotFound { .. } => TargetError::Refused(text),
        _ => TargetError::Away(text),
    }
}

/// An error and its causes, each once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    // Answers of stores have lines.
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a catalog lends for a store, where the file declares no credentials.
#[derive(Clone, Debug, Default)]
pub struct Lent {
    pub aws: Option<AwsCredentialProvider>,
    pub azure: Option<AzureCredentialProvider>,
    pub google: Option<GcpCredentialProvider>,
    /// How S3 is reached, where the file does not say.
    pub endpoint: Option<String>,
    pub region: Option<String>,
}

/// Where a table lies.
#[derive(Clone, Debug)]
pub struct Store {
    pub objects: Arc<dyn ObjectStore>,
    /// The table's root, with a slash at its end.
    pub url: Url,
    local: bool,
}

impl Store {
    /// Makes the client; a local folder is made where it is missing and `makes` says so. Asks nothing of a cloud yet.
    ///
    /// Errors: the folder can't be made or is not there, the settings can't be used.
    pub fn open(place: &Place, makes: bool) -> Result<Self, TargetError> {
        Self::open_with(place, makes, &Lent::default())
    }

    fn open_with(place: &Place, makes: bool, lent: &Lent) -> Result<Self, TargetError> {
        if let Some(cloud) = place.cloud() {
            return Self::of_cloud(place, cloud, lent);
        }
        let folder = place.folder();
        let cannot = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                TargetError::Away(format!("cannot make the folder {}: {error}", folder.display()))
            }
            _ => TargetError::Refused(format!("cannot use the folder {}: {error}", folder.display())),
        };
        if makes {
            std::fs::create_dir_all(&folder).map_err(cannot)?;
        }
        let folder = folder.canonicalize().map_err(cannot)?;
        let url = Url::from_directory_path(&folder).map_err(|()| TargetError::Refused(format!("{} is no folder", folder.display())))?;
        Ok(Self { objects: Arc::new(LocalFileSystem::new()), url, local: true })
    }

    fn of_cloud(place: &Place, cloud: Cloud, lent: &Lent) -> Result<Self, TargetError> {
        let text = format!("{}/", place.table.trim_end_matches('/'));
        let url = Url::parse(&text).map_err(|error| TargetError::Refused(format!("`{}`: {error}", place.table)))?;
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(5), base: 2.0 },
            max_retries: 8,
            retry_timeout: PATIENCE,
        };
        let endpoint = place.store.endpoint.as_ref().map(|endpoint| &endpoint.value).or(lent.endpoint.as_ref());
        let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        let options = ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(Duration::from_secs(5)).with_allow_http(plain);
        let objects = match cloud {
            Cloud::S3 => s3(place, &url, retry, options, lent),
            Cloud::Azure => azure(place, &url, retry, options, lent),
            Cloud::Google => google(place, &url, retry, options, lent),
            Cloud::Hdfs => return Self::of_hdfs(url),
        };
        let objects = objects.map_err(|error| TargetError::Refused(format!("cannot use {}: {}", place.table, chain(&error))))?;
        Ok(Self { objects, url, local: false })
    }

    #[cfg(feature = "hdfs")]
    fn of_hdfs(url: Url) -> Result<Self, TargetError> {
        let root = format!("{}://{}", url.scheme(), url.authority());
        let made = hdfs_native_object_store::HdfsObjectStoreBuilder::new().with_url(&root).build();
        let objects = made.map_err(|error| TargetError::Refused(format!("cannot use {root}: {}", chain(&error))))?;
        Ok(Self { objects: Arc::new(objects), url, local: false })
    }

    #[cfg(not(feature = "hdfs"))]
    fn of_hdfs(url: Url) -> Result<Self, TargetError> {
        Err(TargetError::Refused(format!(
            "this build can't reach {url}; build it with the feature `lake-hdfs`: cargo build --release -p millrace --features lake-hdfs"
        )))
    }

    /// A store whose objects are named by whole locations, as a catalog has them; `location`: of the table.
    ///
    /// Errors: the settings can't be used.
    pub fn at(location: &str, place: &Place, makes: bool, lent: &Lent) -> Result<Self, TargetError> {
        // Hadoop's names for what has another one elsewhere.
        let location = match location.split_once(':') {
            Some(("file", rest)) => format!("/{}", rest.trim_start_matches('/')),
            Some(("s3a" | "s3n", rest)) => format!("s3:{rest}"),
            Some(("abfs", rest)) => format!("abfss:{rest}"),
            _ => location.to_owned(),
        };
        if location.split_once("://").is_some_and(|(scheme, _)| Place::bare(&format!("{scheme}://a/b")).cloud().is_none()) {
            return Err(TargetError::Refused(format!("the catalog has the table at {location}, a store that is not known here")));
        }
        Self::open_with(&Place { table: location, ..place.clone() }, makes, lent)
    }

    /// An object by its whole location: what stands behind the store's name is its path, letter by letter.
    pub fn located(&self, location: &str) -> Result<Path, TargetError> {
        let path = match location.split_once("://") {
            Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
            None => location.strip_prefix("file:").unwrap_or(location),
        };
        Path::parse(path.trim_start_matches('/')).map_err(|error| TargetError::Refused(format!("{location} is no location: {error}")))
    }

    /// An object by its path in the log: relative to the root, as in a URL.
    pub fn path(&self, relative: &str) -> Result<Path, TargetError> {
        let location = self.location(relative)?;
        Path::from_url_path(location.path()).map_err(|error| TargetError::Refused(format!("{relative} is no path: {error}")))
    }

    /// The same as a whole URL.
    pub fn location(&self, relative: &str) -> Result<Url, TargetError> {
        self.url.join(relative).map_err(|error| TargetError::Refused(format!("{relative} is no path: {error}")))
    }

    /// A local disk, which answers at once.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// Puts an object, whole or not at all, and synced.
    pub async fn put(&self, relative: &str, bytes: impl Into<PutPayload>) -> Result<(), TargetError> {
        self.put_at(&self.path(relative)?, bytes).await
    }

    /// The same, by its path.
    pub async fn put_at(&self, path: &Path, bytes: impl Into<PutPayload>) -> Result<(), TargetError> {
        self.objects.put(path, bytes.into()).await.map_err(|error| self.cannot_write(path.as_ref(), &error))?;
        self.sync_at(path)
    }

    fn cannot_write(&self, relative: &str, error: &Error) -> TargetError {
        let what = format!("cannot write {relative} to {}", self.url);
        match error {
            // A bucket that is not there; a local disk makes folders as it needs them.
            Error::NotFound { .. } => TargetError::Refused(format!("{what}: there is no such bucket; create it")),
            _ => failed(what, error),
        }
    }

    /// Waits until the disk has a file and its name.
    pub fn sync(&self, relative: &str) -> Result<(), TargetError> {
        self.sync_at(&self.path(relative)?)
    }

    fn sync_at(&self, path: &Path) -> Result<(), TargetError> {
        if !self.local {
            return Ok(());
        }
        let file = PathBuf::from(format!("/{path}"));
        let synced = std::fs::File::open(&file).and_then(|file| file.sync_all()).and_then(|()| match file.parent() {
            Some(folder) => std::fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        });
        synced.map_err(|error| TargetError::Away(format!("cannot sync {}: {error}", file.display())))
    }

    /// Deletes objects; those that are gone already are as good.
    pub async fn delete(&self, paths: &[Path]) -> Result<(), TargetError> {
        for path in paths {
            match self.objects.delete(path).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(format!("cannot delete {path} of {}", self.url), &error)),
            }
        }
        Ok(())
    }

    /// The bytes of an object; `None`: it is not there.
    pub async fn get(&self, relative: &str) -> Result<Option<bytes::Bytes>, TargetError> {
        self.get_at(&self.path(relative)?).await
    }

    /// The same, by its path.
    pub async fn get_at(&self, path: &Path) -> Result<Option<bytes::Bytes>, TargetError> {
        let cannot = |error: &Error| failed(format!("cannot read {path} in {}", self.url), error);
        match self.objects.get(path).await {
            Ok(got) => got.bytes().await.map(Some).map_err(|error| cannot(&error)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(cannot(&error)),
        }
    }

    /// Everything below a folder of the table, or of all of it.
    pub async fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>, TargetError> {
        self.list_at(&self.path(folder)?).await
    }

    /// The same, by its path.
    pub async fn list_at(&self, prefix: &Path) -> Result<Vec<ObjectMeta>, TargetError> {
        let mut found = Vec::new();
        let mut listed = self.objects.list(Some(prefix));
        while let Some(meta) = listed.next().await {
            match meta {
                Ok(meta) => found.push(meta),
                Err(Error::NotFound { .. }) if self.local => {}
                Err(error) => return Err(failed(format!("cannot list {}", self.url), &error)),
            }
        }
        Ok(found)
    }

    /// Sees that the store refuses to make an object that is there: commits rest on it.
    ///
    /// Errors: it makes it all the same, or can't be asked.
    pub async fn probe(&self) -> Result<(), TargetError> {
        let name = format!("_millrace/probe-{}", uuid::Uuid::new_v4());
        let path = self.path(&name)?;
        let put = async || self.objects.put_opts(&path, PutPayload::from_static(b"probe"), PutMode::Create.into()).await;
        match put().await {
            // A repetition of our own request, whose answer was lost.
            Ok(_) | Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(self.cannot_write(&name, &error)),
        }
        let second = put().await;
        self.delete(std::slice::from_ref(&path)).await?;
        match second {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(()),
            Ok(_) => Err(TargetError::Refused(format!(
                "{} makes an object anew although it was told not to where it exists (If-None-Match, x-goog-if-generation-match), so that two writers would overwrite each other's commits; use a store that keeps to it",
                self.url
            ))),
            Err(error) => Err(self.cannot_write(&name, &error)),
        }
    }
}

fn s3(place: &Place, url: &Url, retry: RetryConfig, options: ClientOptions, lent: &Lent) -> Result<Arc<dyn ObjectStore>, Error> {
    let config = &place.store;
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(url.host_str().unwrap_or_default())
        .with_client_options(options)
        .with_retry(retry)
        .with_virtual_hosted_style_request(config.virtual_hosts);
    if let Some(endpoint) = config.endpoint.as_ref().map(|endpoint| &endpoint.value).or(lent.endpoint.as_ref()) {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(region) = config.region.as_ref().map(|region| &region.value).or(lent.region.as_ref()) {
        builder = builder.with_region(region.as_str());
    }
    if let Some(credentials) = &lent.aws {
        builder = builder.with_credentials(credentials.clone());
    }
    if let (Some(id), Some(secret)) = (&config.access_key, &config.secret_key) {
        builder = builder.with_access_key_id(id.as_str()).with_secret_access_key(secret.expose());
    }
    Ok(Arc::new(builder.build()?))
}

/// `abfss://container@account.dfs.core.windows.net/folder`.
fn azure(place: &Place, url: &Url, retry: RetryConfig, options: ClientOptions, lent: &Lent) -> Result<Arc<dyn ObjectStore>, Error> {
    let config = &place.store;
    let account = url.host_str().unwrap_or_default().split('.').next().unwrap_or_default();
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_account(account)
        .with_container_name(url.username())
        .with_client_options(options)
        .with_retry(retry);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    if let Some(credentials) = &lent.azure {
        builder = builder.with_credentials(credentials.clone());
    }
    if let Some(key) = &config.account_key {
        builder = builder.with_access_key(key.expose());
    }
    if let (Some(tenant), Some(client), Some(secret)) = (&config.tenant, &config.client, &config.client_secret) {
        builder = builder.with_client_secret_authorization(client.as_str(), secret.expose(), tenant.as_str());
    }
    Ok(Arc::new(builder.build()?))
}

fn google(place: &Place, url: &Url, retry: RetryConfig, options: ClientOptions, lent: &Lent) -> Result<Arc<dyn ObjectStore>, Error> {
    let config = &place.store;
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(url.host_str().unwrap_or_default())
        .with_client_options(options)
        .with_retry(retry);
    if let Some(endpoint) = &config.endpoint {
        // A store that is not Google's knows no account of theirs.
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        if config.service_account.is_none() && lent.google.is_none() {
            let nobody = GcpCredential { bearer: String::new() };
            builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
        }
    }
    if let Some(credentials) = &lent.google {
        builder = builder.with_credentials(credentials.clone());
    }
    if let Some(key) = &config.service_account {
        builder = builder.with_service_account_key(key.expose());
    }
    Ok(Arc::new(builder.build()?))
}
