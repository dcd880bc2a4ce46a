//! Credentials for a table's store from its catalog, as the store's client takes them: asked for again before they end.

use crate::store::Lent;
use async_trait::async_trait;
use millrace_kit::parts::TargetError;
use millrace_lake_iceberg::{Catalog, Given};
use object_store::aws::AwsCredential;
use object_store::azure::AzureCredential;
use object_store::gcp::GcpCredential;
use object_store::{CredentialProvider, Error, Result};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

const KEY: &str = "s3.access-key-id";
const SECRET: &str = "s3.secret-access-key";
const SAS: &str = "adls.sas-token.";
const GOOGLE: &str = "gcs.oauth2.token";

/// What a catalog lends for the store of a table; nothing, where it gave nothing.
///
/// Errors: it wants requests to be signed by itself.
pub fn lent(catalog: &Arc<Catalog>) -> Result<Lent, TargetError> {
    let given = catalog.given();
    let said = |name: &str| given.get(name).map(str::to_owned);
    let has_s3 = given.get(KEY).is_some() && given.get(SECRET).is_some();
    if !has_s3 && given.get("s3.remote-signing-enabled") == Some("true") {
        return Err(TargetError::Refused(format!(
            "the catalog of {} signs requests to the store itself (s3.remote-signing-enabled), which is not done here; let it vend credentials, or give the sink `store: {{access_key, secret_key}}`",
            catalog.name
        )));
    }
    Ok(Lent {
        aws: has_s3.then(|| Arc::new(Vended::<AwsCredential>::of(catalog)) as _),
        azure: given.begins_with(SAS).next().map(|_| Arc::new(Vended::<AzureCredential>::of(catalog)) as _),
        google: given.get(GOOGLE).map(|_| Arc::new(Vended::<GcpCredential>::of(catalog)) as _),
        endpoint: said("s3.endpoint"),
        region: said("client.region").or_else(|| said("s3.region")),
    })
}

/// Credentials of that kind.
struct Vended<C>(Arc<Catalog>, PhantomData<fn() -> C>);

impl<C> fmt::Debug for Vended<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credentials of the catalog for {}", self.0.name)
    }
}

impl<C> Vended<C> {
    fn of(catalog: &Arc<Catalog>) -> Self {
        Self(catalog.clone(), PhantomData)
    }

    async fn given(&self) -> Result<Arc<Given>> {
        let renewed = self.0.renewed().await;
        renewed
            .map_err(|error| Error::Generic { store: "catalog", source: format!("cannot renew the store's credentials: {error}").into() })
    }
}

fn gone(name: &str) -> Error {
    Error::Generic { store: "catalog", source: format!("the catalog gives no {name} any more").into() }
}

#[async_trait]
impl CredentialProvider for Vended<AwsCredential> {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        let given = self.given().await?;
        let text = |name: &str| given.get(name).map(str::to_owned);
        let (key_id, secret_key) = (text(KEY).ok_or_else(|| gone(KEY))?, text(SECRET).ok_or_else(|| gone(SECRET))?);
        Ok(Arc::new(AwsCredential { key_id, secret_key, token: text("s3.session-token") }))
    }
}

#[async_trait]
impl CredentialProvider for Vended<AzureCredential> {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> Result<Arc<AzureCredential>> {
        let given = self.given().await?;
        let (_, token) = given.begins_with(SAS).next().ok_or_else(|| gone(SAS))?;
        Ok(Arc::new(AzureCredential::SASToken(pairs(token))))
    }
}

#[async_trait]
impl CredentialProvider for Vended<GcpCredential> {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> Result<Arc<GcpCredential>> {
        let given = self.given().await?;
        Ok(Arc::new(GcpCredential { bearer: given.get(GOOGLE).ok_or_else(|| gone(GOOGLE))?.to_owned() }))
    }
}

/// The parameters of a shared access signature. A plus in one is a plus.
fn pairs(token: &str) -> Vec<(String, String)> {
    let token = token.trim_start_matches('?').replace('+', "%2B");
    url::form_urlencoded::parse(token.as_bytes()).into_owned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_access_signature_is_its_parameters() {
        let wanted = [("sv", "2024-11-04"), ("sig", "a+b/c=")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(pairs("?sv=2024-11-04&sig=a%2Bb%2Fc%3D"), wanted);
        assert_eq!(pairs("sv=2024-11-04&sig=a+b%2Fc%3D"), wanted);
    }
}
