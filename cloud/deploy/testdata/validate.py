"""Holds resolved resources to the schemas of AWS's resource types.

Reads from standard input {"<name>": {"Type": …, "Properties": …}}, every
intrinsic function worked out, and writes one line for each fault. The schemas
are those of AWS's resource providers that cfn-lint brings along; the check is
by the package jsonschema and not by cfn-lint's own. Policies of identities are
held to IAM's grammar as moto has it.
"""
import importlib.resources
import json
import sys

import jsonschema
import regex
from moto.iam.exceptions import MalformedPolicyDocument
from moto.iam.policy_validation import IAMPolicyDocumentValidator


def pattern(_, expression, value, __):
    """The schemas' patterns have classes like \\p{L}, which Python's own re does not know."""
    if isinstance(value, str) and not regex.search(expression, value):
        yield jsonschema.ValidationError(f"{value!r} does not match {expression!r}")


# CloudFormation takes a number where a text is asked for, as in the value of a parameter.
text = jsonschema.Draft7Validator.TYPE_CHECKER.redefine("string", lambda _, v: isinstance(v, (str, int, float)))
Validator = jsonschema.validators.extend(jsonschema.Draft7Validator, {"pattern": pattern}, type_checker=text)
schemas = importlib.resources.files("cfnlint") / "data" / "schemas"
providers = json.loads((schemas / "providers" / "eu-central-1.json").read_text())
checked = 0
for name, resource in sorted(json.load(sys.stdin).items()):
    kind = resource["Type"]
    if kind.startswith("Custom::"):
        continue
    if kind not in providers:
        print(f"{name}: no schema of {kind}")
        continue
    schema = json.loads((schemas / "resources" / f"{providers[kind]}.json").read_text())
    readonly = {p.split("/")[-1] for p in schema.get("readOnlyProperties", []) if p.count("/") == 2}
    for p in sorted(readonly & resource["Properties"].keys()):
        print(f"{name}: {p} is read only")
    # A schema describes the whole resource; what AWS fills in is not required of a template.
    schema["required"] = [p for p in schema.get("required", []) if p not in readonly]
    for e in Validator(schema).iter_errors(resource["Properties"]):
        print(f"{name}: {'/'.join(map(str, e.absolute_path))}: {e.message}")
    documents = [p["PolicyDocument"] for p in resource["Properties"].get("Policies", [])]
    if kind == "AWS::IAM::ManagedPolicy":
        documents.append(resource["Properties"]["PolicyDocument"])
    for document in documents:
        try:
            IAMPolicyDocumentValidator(json.dumps(document)).validate()
        except MalformedPolicyDocument as e:
            print(f"{name}: policy: {e.message}: {json.dumps(document)}")
    checked += 1
print(f"checked {checked}")
