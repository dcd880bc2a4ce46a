//! What files hold and what comes of it: a folder for each case.

use millrace_file::FileSourcePlugin;
use millrace_testkit::{DEADLINE, TestHost, cases, soon, yaml};
use std::fs;
use std::time::Duration;

#[tokio::test]
async fn files_give_the_records_that_their_cases_expect() {
    for case in cases::cases(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases")) {
        let folder = tempfile::tempdir().unwrap();
        for file in fs::read_dir(&case).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.file_name().unwrap();
            if name != "config.yaml" && name != "expected.txt" {
                fs::copy(&file, folder.path().join(name)).unwrap();
            }
        }
        let keys =
            fs::read_to_string(case.join("config.yaml")).unwrap().replace("path: \"", &format!("path: \"{}/", folder.path().display()));
        let compiled = yaml::compile::<FileSourcePlugin>(&format!("{keys}every: 5ms\nsettle: 5ms\n"), &yaml::context("stand", &[]));
        let compiled = compiled.unwrap_or_else(|problems| panic!("{}: {problems}", case.display()));
        let host = TestHost::of(&*compiled);
        let (mut source, io) = (compiled.source().unwrap(), host.io());
        let session = tokio::spawn(async move { source.session(io).await });
        let count = cases::expected(&case).len() as u64;
        if cases::is_writing() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        } else {
            let come = tokio::time::timeout(DEADLINE, host.until("the records", |host| host.count() >= count)).await;
            assert!(come.is_ok(), "{}", case.display());
        }
        host.stop();
        soon("the session ends", session).await.unwrap().unwrap();
        let hidden = folder.path().display().to_string();
        let lines: Vec<_> = host.received().iter().map(|record| cases::line(record, &hidden)).collect();
        cases::compare(&case, &lines);
    }
}
