"""What people call by hand."""

from ser.run import errors

errors.while_loading()
