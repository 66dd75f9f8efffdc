"""The description of the interface is a sound OpenAPI 3.1 document, and a run is what it says a run is."""

import json
import pathlib
import sys

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

folder = pathlib.Path(sys.argv[1])
document = json.loads((folder / "openapi.json").read_text())
errors = list(OpenAPIV31SpecValidator(document).iter_errors())
assert not errors, errors
run = json.loads((folder / "run.json").read_text())
schema = {**document["components"]["schemas"]["Run"], "components": document["components"]}
errors = list(Draft202012Validator(schema).iter_errors(run))
assert not errors, errors
