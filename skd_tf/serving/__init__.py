"""The student as files for serving.

formats      FORMATS: what can be written, and how far each may be from the live student
reload.py    a script that runs an exported file in a process without skd_tf
check        each file reloaded by that script and compared with the live student
card         the model card beside the files
"""
