//! Custom resources with stock kubectl: a definition, its objects, a second version, the end of both.

use anyhow::{Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::is_root;
use orkd_tests::kubectl::{self, Kubectl};

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.sea.example.com}
spec:
  group: sea.example.com
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat, shortNames: [bo], categories: [fleet]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.oars, statusReplicasPath: .status.oars}
    additionalPrinterColumns:
    - {name: Oars, type: integer, jsonPath: .spec.oars}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    selectableFields: [{jsonPath: .spec.colour}]
    schema:
      openAPIV3Schema:
        type: object
        description: A boat that is rowed.
        properties:
          spec:
            type: object
            properties:
              colour: {type: string, enum: [red, blue], description: How it is painted.}
              oars: {type: integer, default: 2, maximum: 8}
            x-kubernetes-validations:
            - {rule: self.oars % 2 == 0, message: oars come in pairs}
          status:
            type: object
            properties:
              oars: {type: integer}
              phase: {type: string}
";

const BOAT: &str = "
apiVersion: sea.example.com/v1
kind: Boat
metadata: {name: fast}
spec: {colour: red}
";

#[test]
fn a_tour_of_custom_resources() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::control_plane(&[])?;
    for binary in kubectl::oldest_and_newest()? {
        let k = cluster.kubectl_of(binary);
        objects(&k)?;
        second_version(&k)?;
        end(&k)?;
    }
    Ok(())
}

fn objects(k: &Kubectl<'_>) -> Result<()> {
    assert_eq!(k.apply(DEFINITION)?, "customresourcedefinition.apiextensions.k8s.io/boats.sea.example.com created\n");
    k.ok("wait --for=condition=Established crd/boats.sea.example.com --timeout=60s")?;
    assert_eq!(k.apply(BOAT)?, "boat.sea.example.com/fast created\n");
    assert_eq!(k.apply(BOAT)?, "boat.sea.example.com/fast unchanged\n");
    assert_eq!(k.apply(&BOAT.replace("red", "blue"))?, "boat.sea.example.com/fast configured\n");
    let table = k.ok("get bo")?;
    let words = |line: Option<&str>| line.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut lines = table.lines();
    assert_eq!(words(lines.next()), ["NAME", "OARS", "AGE"]);
    assert_eq!(words(lines.next())[..2], ["fast", "2"]);
    assert_eq!(k.ok("get fleet -o name")?, "boat.sea.example.com/fast\n");
    assert_eq!(k.ok("get boats --field-selector spec.colour=blue -o name")?, "boat.sea.example.com/fast\n");
    ensure!(k.ok("api-resources --api-group=sea.example.com")?.contains("boats"));
    let explained = k.ok("explain boat.spec.colour")?;
    ensure!(explained.contains("How it is painted.") && explained.contains("KIND:       Boat"), "{explained}");
    k.ok("scale boat fast --replicas=4")?;
    assert_eq!(k.ok("get boat fast -o jsonpath={.spec.oars}")?, "4");
    let odd = k.fails("scale boat fast --replicas=3")?;
    ensure!(odd.contains("oars come in pairs"), "{odd}");
    k.ok_args(&["patch", "boat", "fast", "--type=merge", "-p", r#"{"spec":{"oars":6}}"#], "")?;
    let unknown = k.run(&["apply", "-f", "-"], &BOAT.replace("colour: red", "color: red"))?;
    ensure!(unknown.code != 0 && unknown.stderr.contains("unknown field \"spec.color\""), "{unknown:?}");
    k.ok_args(
        &["patch", "boat", "fast", "--subresource=status", "--type=merge", "-p", r#"{"status":{"phase":"Afloat"}}"#],
        "",
    )?;
    k.ok("wait boat/fast --for=jsonpath={.status.phase}=Afloat --timeout=60s")?;
    k.ok_args(&["apply", "--server-side", "--force-conflicts", "-f", "-"], BOAT)?;
    assert_eq!(k.ok("get boat fast -o jsonpath={.spec.colour}")?, "red");
    k.ok("label boat fast wood=oak")?;
    let mut editor = k.command(&["edit", "boat", "fast"]);
    let edited = editor.env("KUBE_EDITOR", "sed -i s/oak/pine/").output()?;
    ensure!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(k.ok("get boats -l wood=pine -o name")?, "boat.sea.example.com/fast\n");
    Ok(())
}

/// A second version becomes the one that is stored; both are served.
fn second_version(k: &Kubectl<'_>) -> Result<()> {
    let (head, first) = DEFINITION.split_once("  - name: v1\n").unwrap_or_default();
    let second = first.replace("storage: true", "storage: false");
    k.apply(&format!("{head}  - name: v2\n{first}  - name: v1\n{second}"))?;
    let stored = k.ok("get crd boats.sea.example.com -o jsonpath={.status.storedVersions}")?;
    assert_eq!(stored, r#"["v1","v2"]"#);
    for version in ["v1", "v2"] {
        let seen = k.json(&format!("get boats.{version}.sea.example.com fast"))?;
        assert_eq!(seen["apiVersion"], format!("sea.example.com/{version}"));
        assert_eq!(seen["spec"]["colour"], "red");
    }
    assert_eq!(k.apply(&BOAT.replace("/v1", "/v2").replace("fast", "new"))?, "boat.sea.example.com/new created\n");
    assert_eq!(k.ok("get boats.v1.sea.example.com -o name")?.lines().count(), 2);
    Ok(())
}

fn end(k: &Kubectl<'_>) -> Result<()> {
    k.ok("delete boat new")?;
    k.ok("delete crd boats.sea.example.com --timeout=60s")?;
    let gone = k.fails("get boats.sea.example.com")?;
    ensure!(gone.contains("the server doesn't have a resource type"), "{gone}");
    Ok(())
}
