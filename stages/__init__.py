"""The stages: what dvc.yaml runs."""

from ser.run import errors

errors.while_loading()
