//! A small shop on axum and tokio, as one would write it: password checks with argon2.
//!
//! Environment: `LISTEN` (address and port), `HASH_COST` (how many times the usual work a password check is),
//! `HASH_ON`: `blocking` (the default: in `spawn_blocking`, as it should be) or `worker` (in the async function, as it
//! often is).
//! Every answer says in `X-Cpu-Ns` what CPU time the handler took, by the clock of the thread that did the work.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const ARTICLES: u32 = 4_000;
const SHOWN: usize = 20;

type Error = Box<dyn std::error::Error + Send + Sync>;

struct Shop {
    /// Password hashes in argon2's text form, by user.
    users: HashMap<String, String>,
    catalogue: Vec<Article>,
    hash_on_worker: bool,
}

#[derive(Clone, Serialize)]
struct Article {
    id: u32,
    name: String,
    price: u32,
}

#[derive(Deserialize)]
struct Credentials {
    user: String,
    password: String,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let hash_on_worker = match std::env::var("HASH_ON").as_deref() {
        Err(_) | Ok("blocking") => false,
        Ok("worker") => true,
        Ok(other) => return Err(format!("HASH_ON={other}: want blocking or worker").into()),
    };
    let times: u32 = std::env::var("HASH_COST").as_deref().unwrap_or("1").parse()?;
    let passes = Params::DEFAULT_T_COST * times;
    let params = Params::new(Params::DEFAULT_M_COST, passes, Params::DEFAULT_P_COST, None)?;
    let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(b"secret", &SaltString::encode_b64(b"a salt of sixteen")?)?
        .to_string();
    let catalogue = (1..=ARTICLES)
        .map(|id| Article { id, name: format!("Article {id}"), price: id * 7919 % 10007 })
        .collect();
    let shop = Shop { users: HashMap::from([("ann".to_owned(), hash)]), catalogue, hash_on_worker };
    let routes = Router::new()
        .route("/login", post(login))
        .route("/browse", get(browse))
        .route("/report", get(report))
        .with_state(Arc::new(shop));
    let listener = tokio::net::TcpListener::bind(std::env::var("LISTEN")?).await?;
    axum::serve(listener, routes).await?;
    Ok(())
}

/// Checks a password; an unknown user fails before any hashing.
async fn login(State(shop): State<Arc<Shop>>, Form(given): Form<Credentials>) -> Response {
    let began = thread_cpu();
    let Some(hash) = shop.users.get(&given.user).cloned() else {
        return answer(StatusCode::UNAUTHORIZED, json!({"error": "unknown user"}), thread_cpu() - began);
    };
    let user = given.user;
    let (right, cpu) = if shop.hash_on_worker {
        timed(|| verify(&given.password, &hash))
    } else {
        tokio::task::spawn_blocking(move || timed(|| verify(&given.password, &hash)))
            .await
            .expect("verifying does not panic")
    };
    if right {
        answer(StatusCode::OK, json!({"welcome": user}), cpu)
    } else {
        answer(StatusCode::UNAUTHORIZED, json!({"error": "wrong password"}), cpu)
    }
}

/// The cheapest articles: light.
async fn browse(State(shop): State<Arc<Shop>>) -> Response {
    let (content, cpu) = timed(|| {
        let mut found: Vec<_> =
            shop.catalogue.iter().filter(|article| article.name.starts_with("Article")).cloned().collect();
        found.sort_by(|a, b| (a.price, &a.name).cmp(&(b.price, &b.name)));
        found.truncate(SHOWN);
        json!({"articles": found})
    });
    answer(StatusCode::OK, content, cpu)
}

/// Waits for a slow system elsewhere: long, but next to no CPU.
async fn report() -> Response {
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (content, cpu) = timed(|| json!({"sales": 42}));
    answer(StatusCode::OK, content, cpu)
}

fn verify(password: &str, hash: &str) -> bool {
    let hash = PasswordHash::new(hash).expect("our own hash is well formed");
    Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

fn answer(status: StatusCode, content: Value, cpu: Duration) -> Response {
    (status, [("X-Cpu-Ns", cpu.as_nanos().to_string())], Json(content)).into_response()
}

/// What the work returns, and the CPU time that this thread took for it.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = thread_cpu();
    let done = work();
    (done, thread_cpu() - began)
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock").into()
}
