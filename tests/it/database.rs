//! A real database, a computation and a clock on a real node: what a workload's owner expects to be kept, is kept.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use orkd_tests::cluster::{Cluster, import, postgres_archive};
use orkd_tests::kubectl::Kubectl;
use orkd_tests::{eventually, is_root};
use serde_json::Value;

/// PostgreSQL in two replicas with a claim each; a Job of pi; a CronJob that keeps no Job that is done.
const WORKLOAD: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: pg}
spec: {clusterIP: None, selector: {app: pg}, ports: [{port: 5432}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: pg}
spec:
  replicas: 2
  serviceName: pg
  selector: {matchLabels: {app: pg}}
  template:
    metadata: {labels: {app: pg}}
    spec:
      terminationGracePeriodSeconds: 20
      securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999, fsGroupChangePolicy: OnRootMismatch}
      containers:
      - name: postgres
        image: orkd.local/postgres:latest
        imagePullPolicy: IfNotPresent
        command:
        - sh
        - -ec
        - |
          if ! [ -d $PGDATA ]; then
            rm -rf $PGDATA.new
            initdb -D $PGDATA.new --auth=trust --locale=C --encoding=UTF8
            echo 'host all all all trust' >> $PGDATA.new/pg_hba.conf
            mv $PGDATA.new $PGDATA
          fi
          exec postgres -k /tmp -c listen_addresses='*'
        env:
        - {name: PGDATA, value: /data/pg}
        - {name: PGHOST, value: /tmp}
        - {name: PGUSER, value: postgres}
        lifecycle: {preStop: {exec: {command: [pg_ctl, stop, -m, fast]}}}
        readinessProbe: {exec: {command: [pg_isready, -q]}, periodSeconds: 1, timeoutSeconds: 5}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 100Mi}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: pi}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: pi
        image: orkd.local/postgres:latest
        imagePullPolicy: IfNotPresent
        # Guard digits are computed and cut off.
        command: [sh, -c, "echo 'scale=2010; 4*a(1)' | BC_LINE_LENGTH=0 bc -l | cut -c1-2001"]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "* * * * *"
  successfulJobsHistoryLimit: 0
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
          - {name: c, image: "orkd.local/postgres:latest", imagePullPolicy: IfNotPresent, command: [date]}
"#;

/// The first `digits` digits of pi, the point left out (the spigot of Rabinowitz and Wagon).
fn pi(digits: usize) -> String {
    // Some more than wanted: a run of nines at the end would be held back.
    let wanted = digits + 20;
    let mut remainders = vec![2u64; wanted * 10 / 3 + 1];
    let (mut out, mut held, mut nines) = (String::new(), None::<u64>, 0);
    for _ in 0..=wanted {
        let mut carry = 0;
        for i in (1..remainders.len()).rev() {
            let value = remainders[i] * 10 + carry;
            let divisor = 2 * i as u64 + 1;
            remainders[i] = value % divisor;
            carry = value / divisor * i as u64;
        }
        let value = remainders[0] * 10 + carry;
        remainders[0] = value % 10;
        match value / 10 {
            9 => nines += 1,
            digit => {
                let overflow = digit / 10;
                out.extend(held.map(|h| (h + overflow).to_string()));
                out.push_str(&if overflow == 1 { "0" } else { "9" }.repeat(nines));
                (held, nines) = (Some(digit % 10), 0);
            }
        }
    }
    out.truncate(digits);
    out
}

#[test]
fn the_spigot_is_right() {
    assert_eq!(pi(30), "314159265358979323846264338327");
    // The six nines of Feynman.
    assert_eq!(&pi(770)[760..], "3499999983");
}

/// The statefulset as its owner sees it.
struct Database<'a> {
    k: &'a Kubectl<'a>,
}

impl Database<'_> {
    /// What a query answers.
    fn query(&self, pod: &str, sql: &str) -> Result<String> {
        Ok(self.k.ok_args(&["exec", pod, "--", "psql", "-qtAc", sql], "")?.trim().to_owned())
    }

    /// Both replicas are ready, and each has its own rows and no other's.
    fn keeps(&self, when: &str, rows: usize) -> Result<()> {
        for pod in ["pg-0", "pg-1"] {
            eventually(&format!("{pod} to be ready {when}"), Duration::from_secs(90), || {
                let ready = self.k.ok(&format!("get pod {pod}")).map_err(|e| e.to_string())?;
                if ready.contains("1/1") { Ok(()) } else { Err(ready) }
            })?;
            let found = eventually(&format!("an answer of {pod} {when}"), Duration::from_secs(30), || {
                self.query(pod, "select string_agg(distinct owner, ','), count(*) from t").map_err(|e| format!("{e:#}"))
            })?;
            ensure!(found == format!("{pod}|{rows}"), "{when}, {pod} has {found} instead of {rows} rows");
        }
        Ok(())
    }

    fn write(&self, rows: &str) -> Result<()> {
        for pod in ["pg-0", "pg-1"] {
            self.query(pod, &format!("insert into t select '{pod}', i from generate_series({rows}) i"))?;
        }
        Ok(())
    }

    fn uid(&self, pod: &str) -> Result<String> {
        self.k.ok(&format!("get pod {pod} -o jsonpath={{.metadata.uid}}"))
    }
}

#[test]
fn a_database_keeps_its_rows() -> Result<()> {
    let Some(archive) = is_root().then(postgres_archive).flatten() else { return Ok(()) };
    let mut cluster = Cluster::start(&[])?;
    cluster.wait_ready("server")?;
    import(&cluster.machine, &archive)?;
    let seen = |k: &Kubectl<'_>, cluster: &Cluster| {
        let pods = k.ok("describe pods,pvc,nodes").unwrap_or_default();
        format!("{pods}\n{}\n{}", k.ok("logs pg-0 --tail=20").unwrap_or_default(), cluster.log())
    };
    let uids = {
        let k = cluster.kubectl()?;
        k.apply(WORKLOAD)?;
        kept_while_it_runs(&k).map_err(|e| e.context(seen(&k, &cluster)))?;
        let db = Database { k: &k };
        [db.uid("pg-0")?, db.uid("pg-1")?]
    };

    // orkd alone: the database runs on.
    cluster.kill()?;
    cluster.boot()?;
    {
        let k = cluster.kubectl()?;
        let db = Database { k: &k };
        db.keeps("after orkd was killed", 3000).map_err(|e| e.context(seen(&k, &cluster)))?;
        db.write("3001, 4000")?;
        assert_eq!(k.ok("get pod pg-0 -o jsonpath={.status.containerStatuses[0].restartCount}")?, "0");
    }

    // The whole machine: the same pods, in new containers.
    cluster.power_off()?;
    cluster.boot()?;
    let k = cluster.kubectl()?;
    let db = Database { k: &k };
    started_again(&k).and_then(|()| db.keeps("after a power cut", 4000)).map_err(|e| e.context(seen(&k, &cluster)))?;
    ensure!([db.uid("pg-0")?, db.uid("pg-1")?] == uids, "a pod outlives its machine's restart");
    Ok(())
}

/// The database over the deletion of a pod and a rolling update; beside it the Job, and the CronJob.
fn kept_while_it_runs(k: &Kubectl<'_>) -> Result<()> {
    let db = Database { k };
    k.ok("rollout status statefulset/pg --timeout=120s")?;
    for pod in ["pg-0", "pg-1"] {
        db.query(pod, "create table t (owner text, n int primary key)")?;
    }
    db.write("1, 1000")?;

    let before = db.uid("pg-0")?;
    k.ok("delete pod pg-0")?;
    db.keeps("after its pod was deleted", 1000)?;
    ensure!(db.uid("pg-0")? != before);
    db.write("1001, 2000")?;

    // A rolling update: the last first, and each ready before the next.
    let revision = k.ok("get statefulset pg -o jsonpath={.status.updateRevision}")?;
    k.ok("set env statefulset/pg ROUND=2")?;
    k.ok("rollout status statefulset/pg --timeout=90s")?;
    let set = k.json("get statefulset pg")?;
    ensure!(set["status"]["currentRevision"] == set["status"]["updateRevision"], "{set}");
    ensure!(set["status"]["updateRevision"] != revision.as_str(), "{set}");
    let pods = k.json("get pods -l app=pg")?;
    let time = |pod: usize, path: &str| -> Result<Timestamp> {
        let text = pods["items"][pod].pointer(path).and_then(Value::as_str);
        Ok(text.with_context(|| format!("no {path}: {pods}"))?.parse()?)
    };
    let ready = pods["items"][1]["status"]["conditions"].as_array().context("conditions")?;
    let ready = ready.iter().position(|c| c["type"] == "Ready").context("Ready")?;
    let order =
        (time(1, &format!("/status/conditions/{ready}/lastTransitionTime"))?, time(0, "/metadata/creationTimestamp")?);
    ensure!(order.0 <= order.1, "pg-1 was not ready before pg-0 was made: {order:?}");
    for pod in ["pg-0", "pg-1"] {
        assert_eq!(k.ok_args(&["exec", pod, "--", "sh", "-c", "echo $ROUND"], "")?.trim(), "2");
    }
    db.keeps("after a rolling update", 2000)?;
    db.write("2001, 3000")?;

    // The replicas know each other by name.
    let owner = "select distinct owner from t";
    let asked = k.ok_args(&["exec", "pg-0", "--", "psql", "-qtA", "-h", "pg-1.pg", "-c", owner], "")?;
    assert_eq!(asked.trim(), "pg-1");

    k.ok("wait --for=condition=complete job/pi --timeout=90s")?;
    let digits = k.ok("logs job/pi")?;
    let expected = pi(2000);
    assert_eq!(digits.trim_end(), format!("{}.{}", &expected[..1], &expected[1..]));
    let job = k.json("get job pi")?;
    let status = &job["status"];
    ensure!(status["succeeded"] == 1 && status["uncountedTerminatedPods"] == serde_json::json!({}), "{job}");
    let told = k.ok("describe job pi")?;
    for text in ["1 Succeeded / 0 Failed", "SuccessfulCreate", "Created pod: pi-", "Job completed"] {
        ensure!(told.contains(text), "{text}: {told}");
    }

    ticks(k)
}

/// The CronJob fires at the whole minute, and its Job goes when it is done.
fn ticks(k: &Kubectl<'_>) -> Result<()> {
    let line = "get events --field-selector involvedObject.name=tick";
    let events = eventually("a Job of the CronJob to come and to go", Duration::from_secs(90), || {
        let list = k.json(line).map_err(|e| e.to_string())?;
        let events = list["items"].as_array().cloned().unwrap_or_default();
        if events.iter().any(|e| e["reason"] == "SuccessfulDelete") { Ok(events) } else { Err(list.to_string()) }
    })?;
    let told = |reason: &str| {
        let event =
            events.iter().find(|e| e["reason"] == reason).with_context(|| format!("no {reason}: {events:?}"))?;
        let time: Timestamp = event["metadata"]["creationTimestamp"].as_str().context("a time")?.parse()?;
        anyhow::Ok((event["message"].as_str().unwrap_or_default().to_owned(), time))
    };
    let (text, made) = told("SuccessfulCreate")?;
    // A Job is named after its minute.
    let job = text.strip_prefix("Created job ").with_context(|| text.clone())?;
    let minute: i64 = job.strip_prefix("tick-").with_context(|| text.clone())?.parse()?;
    let late = made.as_second() - minute * 60;
    ensure!((0..=5).contains(&late), "{job} was made {late} s after its minute");
    ensure!(told("SawCompletedJob")?.0 == format!("Saw completed job: {job}, condition: Complete"), "{events:?}");
    ensure!(told("SuccessfulDelete")?.0 == format!("Deleted job {job}"), "{events:?}");
    eventually("the Job's pod to go with it", Duration::from_secs(20), || {
        let left = k.ok("get jobs,pods -o name").map_err(|e| e.to_string())?;
        if left.contains(job) { Err(left) } else { Ok(()) }
    })?;
    let last = k.ok("get cronjob tick -o jsonpath={.status.lastScheduleTime}")?.parse::<Timestamp>()?;
    ensure!(last.as_second() % 60 == 0 && last.as_second() >= minute * 60, "{last}");
    Ok(())
}

/// After a power cut each container is a new one, and the pod says why.
fn started_again(k: &Kubectl<'_>) -> Result<()> {
    let begun = Instant::now();
    eventually("the containers to start again", Duration::from_secs(60), || {
        let pods = k.json("get pods -l app=pg").map_err(|e| e.to_string())?;
        let again = |i: usize| {
            let status = &pods["items"][i]["status"]["containerStatuses"][0];
            status["restartCount"] == 1 && status["state"]["running"].is_object()
        };
        if again(0) && again(1) { Ok(()) } else { Err(pods.to_string()) }
    })?;
    println!("containers run {:?} after the boot", begun.elapsed());
    let told = k.ok("describe pod pg-0")?;
    ensure!(told.contains("Pod sandbox changed, it will be killed and re-created."), "{told}");
    Ok(())
}
