"""DICOM files: pixels, gray values, tags and patients."""
