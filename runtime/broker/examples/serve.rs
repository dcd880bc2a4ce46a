use std::time::Duration;
#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let b = millrace_broker::Broker::start(millrace_broker::Options {
        dir: a[1].clone().into(),
        listen: a[2].parse().unwrap(),
        sync: Duration::from_millis(a[3].parse().unwrap()),
        security: None,
        keep_free: millrace_log::KeepFree::Bytes(0),
    })
    .await
    .unwrap();
    println!("{}", b.listening());
    tokio::signal::ctrl_c().await.unwrap();
    b.stop().await.unwrap();
}
