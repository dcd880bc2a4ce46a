//! Connections, and what is asked on them.
//!
//! | status | when |
//! |---|---|
//! | 200 | the log has synced it |
//! | 400 | no record of it can be read: nothing of it is there |
//! | 401, 403 | the login |
//! | 404, 405 | no route |
//! | 408, 413, 415 | the body: too slow, too large, of another kind |
//! | 429, 503 with Retry-After | too much waits; the log is full, or the source stops |

use crate::access::Shown;
use crate::answer::{Answer, json_response, text_response};
use crate::body::{Body, Bounds};
use crate::config::Settings;
use crate::intake::{Done, Post, What};
use crate::rest_proxy::{self, Ask, Refusal};
use crate::split::split;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response};
use millrace_schemas::Micros;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::sync::{mpsc, oneshot};

/// What all records of a post carry of its path and headers, at most, in times of `max_body`.
const CARRIED: usize = 32;

/// What every request needs.
pub struct Server {
    pub settings: Arc<Settings>,
    pub bounds: Bounds,
    pub posts: mpsc::Sender<Post>,
    pub is_full: Arc<AtomicBool>,
}

impl Server {
    /// Answers one request.
    pub async fn serve(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(match self.answer(request).await {
            Ok(response) => response,
            Err(error) => error.response(u32::from(error.status)),
        })
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Answer> {
        if request.method() == Method::OPTIONS && request.headers().contains_key("webhook-request-origin") {
            return self.handshake(request.headers());
        }
        let shown = self.settings.access.check(request.headers()).map_err(|denied| Answer::refused(denied.status, denied.reason))?;
        let (head, incoming) = request.into_parts();
        let path = head.uri.path();
        let method = head.method.as_str();
        if let (Some((_, allowed)), Some(ask)) = (&self.settings.rest_proxy, rest_proxy::ask(method, path)) {
            let topic = match ask {
                Ask::Clusters => {
                    return Ok(json_response(200, &json!({"kind": "KafkaClusterList", "data": [rest_proxy::cluster("")]})));
                }
                Ask::Cluster => return Ok(json_response(200, &rest_proxy::cluster(""))),
                Ask::ProduceV2(topic) | Ask::ProduceV3(topic) => topic,
            };
            let topic = crate::path::decode(topic).map_err(|why| Answer::refused(400, why))?;
            let fits = millrace_kit::topics::check_name(&topic).and_then(|()| allowed.check(&topic));
            fits.map_err(|why| Answer::refused(403, why))?;
            let (body, signature, headers) = self.body(&head.headers, method, path, incoming, shown).await?;
            return self.produce(ask, topic, body, signature, headers, &head.headers).await;
        }
        let found = self.settings.routes.iter().enumerate().find_map(|(index, route)| Some((index, route.path.captures(path)?)));
        let Some((index, given)) = found else {
            let known: Vec<_> = self.settings.routes.iter().take(20).map(|route| route.path.as_str()).collect();
            return Err(Answer::refused(404, format!("nothing is posted to this path; there are {}", known.join(", "))));
        };
        if head.method != Method::POST && head.method != Method::PUT {
            let mut response = Answer::refused(405, "post here").response(405);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, PUT, OPTIONS"));
            return Ok(response);
        }
        let given = given.map_err(|why| Answer::refused(400, why))?;
        let route = &self.settings.routes[index];
        let (body, signature, mut headers) = self.body(&head.headers, method, path, incoming, shown).await?;
        let records =
            split(route.format, route.takes_lists, &head.headers, &body.bytes).map_err(|(status, why)| Answer::refused(status, why))?;
        if records.is_empty() {
            return Err(Answer::refused(400, "the body holds no record"));
        }
        headers.push(("http.path".to_owned(), path.as_bytes().to_vec()));
        for name in &route.headers {
            headers.extend(head.headers.get_all(name).iter().map(|value| (name.as_str().to_owned(), value.as_bytes().to_vec())));
        }
        let named = self.name(&mut headers, &head.headers);
        // Each record carries them: a long path must not make gigabytes of a list of small numbers.
        let carried = headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>().saturating_mul(records.len());
        let most = CARRIED * self.settings.max_body;
        if carried > most {
            let why = format!("{} records carry {carried} bytes of path and headers, {most} at most; post fewer at a time", records.len());
            return Err(Answer::refused(413, why));
        }
        let what = What::Records { route: index, given, records };
        match self.post(what, body, headers, named, signature).await? {
            Done::Taken { records, repeats, bad } => {
                let mut answer = json!({"accepted": records});
                if repeats > 0 {
                    answer["repeated"] = repeats.into();
                }
                if !bad.is_empty() {
                    answer["refused"] = told(&bad);
                    answer["refused_total"] = bad.len().into();
                }
                Ok(json_response(200, &answer))
            }
            Done::Refused { bad } => {
                let why = bad.first().map_or_else(|| "no record".to_owned(), |(number, why)| format!("record {number}: {why}"));
                Ok(json_response(400, &json!({"error_code": 400, "message": why, "refused": told(&bad)})))
            }
            Done::Busy => Err(Answer::later(429, 5, "too many signed posts within the window")),
        }
    }

    /// Reads the body and checks its signature; the headers say who it was.
    async fn body(
        &self,
        headers: &HeaderMap,
        method: &str,
        path: &str,
        incoming: Incoming,
        shown: Shown,
    ) -> Result<(Body, Option<Vec<u8>>, Vec<(String, Vec<u8>)>), Answer> {
        if self.is_full.load(Relaxed) {
            return Err(Answer::later(503, 5, "the log is full"));
        }
        // The signature is over the body as it came.
        let body = self.bounds.read(incoming, headers).await?;
        let mut ours = Vec::new();
        let signature = match (shown, &self.settings.signature) {
            (Shown::Signature, Some(signature)) => {
                if headers.contains_key(hyper::header::CONTENT_ENCODING) {
                    return Err(Answer::refused(415, "a signed body is not compressed"));
                }
                let checked = signature.check(method, path, headers, &body.bytes, Micros::now().0);
                Some(checked.map_err(|why| Answer::refused(401, why))?)
            }
            (Shown::Named(name), _) => {
                ours.push(("http.user".to_owned(), name.as_bytes().to_vec()));
                None
            }
            _ => None,
        };
        Ok((body, signature, ours))
    }

    /// What a repeat of this post is known by.
    fn name(&self, ours: &mut Vec<(String, Vec<u8>)>, headers: &HeaderMap) -> Option<Vec<u8>> {
        let name = headers.get(&self.settings.repeats_header)?.as_bytes().to_vec();
        ours.push(("http.idempotency-key".to_owned(), name.clone()));
        Some(name)
    }

    async fn post(
        &self,
        what: What,
        body: Body,
        headers: Vec<(String, Vec<u8>)>,
        named: Option<Vec<u8>>,
        signature: Option<Vec<u8>>,
    ) -> Result<Done, Answer> {
        let (answer, done) = oneshot::channel();
        self.posts.try_send(Post { what, body, headers, named, signature, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Answer::later(429, 1, "too many posts wait for their answers"),
            mpsc::error::TrySendError::Closed(_) => Answer::later(503, 5, "the source is stopping").closing(),
        })?;
        match tokio::time::timeout(self.settings.answer_within, done).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(Answer::later(503, 5, "the source is stopping").closing()),
            Err(_) => {
                Err(Answer::later(503, 5, format!("the log did not sync it within {:?}; post it again", self.settings.answer_within)))
            }
        }
    }

    async fn produce(
        &self,
        ask: Ask<'_>,
        topic: String,
        body: Body,
        signature: Option<Vec<u8>>,
        mut headers: Vec<(String, Vec<u8>)>,
        theirs: &HeaderMap,
    ) -> Result<Response<Full<Bytes>>, Answer> {
        let content_type = theirs.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let read = match ask {
            Ask::ProduceV2(_) => match rest_proxy::v2(content_type, &body.bytes) {
                Ok(read) => read,
                Err((code, why)) => return Ok(Answer::refused((code / 100) as u16, why).response(code)),
            },
            _ => rest_proxy::v3(&body.bytes),
        };
        let sizes = |record: &rest_proxy::Produced| (record.key.as_ref().map_or(0, Vec::len), record.value.as_ref().map_or(0, Vec::len));
        let mut good = Vec::new();
        let mut results: Vec<Result<(usize, usize), Refusal>> = Vec::new();
        for record in read {
            results.push(record.as_ref().map(sizes).map_err(Clone::clone));
            good.extend(record);
        }
        if results.is_empty() {
            return Ok(Answer::refused(422, "the request holds no record").response(42201));
        }
        if !good.is_empty() {
            let named = self.name(&mut headers, theirs);
            let what = What::Produced { topic: topic.clone(), records: good };
            if self.post(what, body, headers, named, signature).await? == Done::Busy {
                return Err(Answer::later(429, 5, "too many signed posts within the window"));
            }
        }
        Ok(match ask {
            Ask::ProduceV2(_) => {
                let results: Vec<_> = results.into_iter().map(|result| result.map(drop)).collect();
                let mut response = json_response(200, &rest_proxy::answer_v2(&results));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.kafka.v2+json"));
                response
            }
            _ => {
                let status = match &results[..] {
                    [Err((code, _))] => {
                        if *code > 1000 {
                            code / 100
                        } else {
                            *code
                        }
                    }
                    _ => 200,
                };
                let texts: Vec<_> = results.iter().map(|result| rest_proxy::answer_v3(&topic, result).to_string()).collect();
                text_response(status as u16, texts.join("\r\n"))
            }
        })
    }

    /// CloudEvents' "HTTP 1.1 Web Hooks for Event Delivery", section 4: whether events may be sent here.
    fn handshake(&self, headers: &HeaderMap) -> Result<Response<Full<Bytes>>, Answer> {
        let origin = headers.get("webhook-request-origin").and_then(|origin| origin.to_str().ok()).unwrap_or_default();
        if !self.settings.webhook_origins.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(origin)) {
            return Err(Answer::refused(403, "this origin is not in the source's `webhook_origins`"));
        }
        let mut response = text_response(200, String::new());
        let headers = response.headers_mut();
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("*"));
        headers.insert(HeaderName::from_static("webhook-allowed-origin"), value(origin));
        headers.insert(HeaderName::from_static("webhook-allowed-rate"), HeaderValue::from_static("*"));
        headers.insert(ALLOW, HeaderValue::from_static("POST, PUT, OPTIONS"));
        Ok(response)
    }
}

fn told(bad: &[(u32, String)]) -> Value {
    bad.iter().take(100).map(|(number, why)| json!({"record": number, "reason": why})).collect()
}
