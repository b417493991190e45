"""The student as files for serving.

export_student  writes the student of a finished run, checks every file and adds a model card; what skd_tf.export does
formats         FORMATS: the files that can be written, and how far each may differ from the live student
saved_model     the SavedModel: its signature and how it is written
parity_check    runs each file in a fresh process without skd_tf and compares it with the live student
live_check      compares what an export answers with the live student, in the process that writes it
reload          the script that runs a file in that process
model_card      the README.md beside the files; model_card.md is its template
"""
